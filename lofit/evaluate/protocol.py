"""The protocol of the scores: a column of every result, never mixed in one table."""

PROTOCOL = "paper"
"""Prompts and scoring of the tasks' own folders, which follow the LoFiT paper where it has the task."""
