"""What agents and the server say to each other: messages, framing, sessions, methods."""
