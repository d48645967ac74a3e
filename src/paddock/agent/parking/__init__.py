"""A guest that is nobody until its host says who it is."""
