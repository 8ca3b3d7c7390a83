"""Base models: loading, tokenizing texts, loading adapters, and measuring time and memory."""
