"""Figures of the whole of Paddock, taken on the machine that runs them, beside those of its peers."""
