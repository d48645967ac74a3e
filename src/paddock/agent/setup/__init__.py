"""How an agent gets onto its machine: asked for, written down, placed, and kept as somebody wrote it."""
