"""The protocols of scoring: a column of every result, never mixed in one table."""

from typing import Literal

Protocol = Literal["paper", "harness"]

PAPER: Protocol = "paper"
"""Prompts and scoring of the tasks' own folders, which follow the LoFiT paper where it has the task."""

HARNESS: Protocol = "harness"
"""lm-eval's own definition of the task, prompt and scoring, on the same test items."""


def table_name(protocol: Protocol) -> str:
    """Name of the main table of a protocol."""
    return "main" if protocol == PAPER else f"main-{protocol}"
