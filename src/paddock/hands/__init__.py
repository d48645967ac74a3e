"""How a process is held: keepers, process trees, links and crash points."""
