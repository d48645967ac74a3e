"""Paddock lends whole machine rooms to changes under test."""

__version__ = "0.1.0"
