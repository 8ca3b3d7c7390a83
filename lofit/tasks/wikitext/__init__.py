"""WikiText-2, for evaluation only."""
