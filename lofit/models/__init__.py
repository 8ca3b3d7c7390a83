"""Base models: loading them, encoding texts for them, adapters put on them, and what running them costs."""
