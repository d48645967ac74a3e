"""The nouns of Paddock: pure values and rules, without I/O, clock, chance or logging."""
