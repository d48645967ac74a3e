"""The agent as one file: for any Python, or with its own."""
