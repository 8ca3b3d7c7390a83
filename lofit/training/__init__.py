"""Training: objectives, the training loop, save points, and what makes training cheaper."""
