"""MMLU, for evaluation only."""
