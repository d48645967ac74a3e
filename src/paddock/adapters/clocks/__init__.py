"""Clocks: where moments come from."""
