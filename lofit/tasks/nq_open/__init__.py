"""Natural Questions, open, for evaluation only."""
