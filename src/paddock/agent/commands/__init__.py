"""The verbs of the agent's command line, a module each: `add` declares one, its `act` carries it out."""
