"""Where changes come from and reports go to."""
