"""Rankings of attention heads: the ranking file, and the overlap of two rankings."""
