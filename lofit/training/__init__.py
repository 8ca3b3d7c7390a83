"""Training: examples, objectives, the loop, and what it costs."""
