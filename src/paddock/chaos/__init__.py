"""Faults on purpose: a real server and a real agent, broken in every way while they work, and then counted."""
