"""AI2 Reasoning Challenge: choose the answer to a question of a science exam."""
