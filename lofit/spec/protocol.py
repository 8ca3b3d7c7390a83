"""The protocols of scoring and what computes it: columns of every result, never mixed in one table."""

from typing import Literal

Protocol = Literal["paper", "harness", "open"]

PAPER: Protocol = "paper"
"""Prompts and scoring of the tasks' own folders, which follow the LoFiT paper where it has the task."""

HARNESS: Protocol = "harness"
"""lm-eval's own definition of the task, prompt and scoring, on the same test items."""

OPEN: Protocol = "open"
"""The model words its answer itself, compared with reference answers and, if any are configured, read by judges."""


def table_name(protocol: Protocol) -> str:
    """Name of the main table of a protocol."""
    return "main" if protocol == PAPER else f"main-{protocol}"


JUDGED = ("true", "informative", "true_and_informative")
"""Metrics of judged open answers, the headline last."""

COUNTED = {
    "n_truncated": "with a prompt cut on the left to what the model reads",
    "n_ties": "in which different choices share the best score, which is no right answer",
    "n_unreachable": "whose answers cannot be generated: too long, or with a stop string or a special token in them",
}
"""What is counted of the test items of an evaluation, and what is said of them in the log, tables and the report."""

Backend = Literal["packed", "hf", "vllm"]

PACKED: Backend = "packed"
"""lm-eval's ``hf`` model with shared prefixes and packed answers: the same scores, sooner."""

STOCK: Backend = "hf"
"""lm-eval's own."""

VLLM: Backend = "vllm"
"""lm-eval's ``vllm`` model on a plain checkpoint with the adapter folded in; on GPU."""
