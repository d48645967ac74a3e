"""The terminal: nouns then verbs, one file a noun."""
