"""The stages: loops over rows in one state. Load, decide, save, act, record."""
