"""How agents are connected: the hub behind `/agent`."""
