"""Machines that are a directory and an agent process each, without isolation."""
