"""ListOps: evaluate a nested list expression."""
