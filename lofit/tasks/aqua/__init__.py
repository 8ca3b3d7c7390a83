"""AQuA-RAT: choose the answer to an algebraic word problem."""
