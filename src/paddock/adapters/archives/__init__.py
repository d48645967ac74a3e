"""Archives: where logs, artifacts and results are kept."""
