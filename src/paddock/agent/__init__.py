"""The program on a machine that dials out and carries out commands at most once."""
