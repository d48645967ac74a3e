"""How an agent gets onto its machine: asked for, planned, placed, and kept as written."""
