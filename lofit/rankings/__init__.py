"""Rankings of attention heads: their file, and how alike two of them are."""
