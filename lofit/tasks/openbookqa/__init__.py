"""OpenBookQA: choose what completes or answers a statement of elementary science."""
