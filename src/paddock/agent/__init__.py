"""The program on a machine that dials out, carries out commands at most once, and tells what came of them."""
