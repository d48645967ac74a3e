"""One program of the agent takes the place of another, and gives it back if it fails."""
