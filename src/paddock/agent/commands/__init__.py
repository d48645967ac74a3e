"""The verbs of the agent's command line: `add` declares one, its `act` carries it out."""
