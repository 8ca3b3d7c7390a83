"""Natural Questions, open, as a choice between two answers, for evaluation only."""
