"""Chances: where names and secrets come from."""
