"""Machines that are a directory and an agent process each, on the host's own kernel, without isolation."""
