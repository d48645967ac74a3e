"""Faults on purpose: a server and an agent, broken while they work, and then counted."""
