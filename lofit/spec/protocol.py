"""Protocols and backends: columns of every result, never mixed in one table."""

from typing import Literal, cast

Protocol = Literal["paper", "harness", "open", "paper-chat", "harness-chat", "open-chat"]
"""How prompts are worded and answers scored."""

PAPER: Protocol = "paper"
"""Prompts and scoring of the tasks' own folders, which follow the LoFiT paper where it has the task."""

HARNESS: Protocol = "harness"
"""lm-eval's own definition of the task, prompt and scoring, on the same test items."""

OPEN: Protocol = "open"
"""The model generates its answer, which is compared with reference answers and read by judges if any are configured."""

_CHAT = "-chat"


def in_chat(protocol: Protocol) -> bool:
    """Return whether prompts are messages of a user, worded by the chat template, in training as in scoring."""
    return protocol.endswith(_CHAT)


def scoring(protocol: Protocol) -> Protocol:
    """Return the protocol without the chat template, which has the same prompts and scores alike."""
    return cast(Protocol, protocol.removesuffix(_CHAT))


def paper(chat: bool) -> Protocol:
    """Return the protocol of the tasks' own folders, with or without the chat template."""
    return "paper-chat" if chat else PAPER


def table_name(protocol: Protocol) -> str:
    """Return the name of the main table of a protocol."""
    return "main" if protocol == PAPER else f"main-{protocol}"


JUDGED = ("true", "informative", "true_and_informative")
"""Metrics of judged open answers, each 0 or 1; the last one is the headline."""

TRUE_X_INFORMATIVE = "true_x_informative"
"""Of judged open answers: the rate of ``true`` times that of ``informative``, which no single answer has."""

COUNTED = {
    "n_truncated": "with a prompt cut on the left to what the model reads",
    "n_ties": "in which different choices share the best score, which is no right answer",
    "n_unreachable": "whose answers cannot win: too long to generate, with a stop string or a special token in them, "
    "or with tokens that only go on after those of another choice",
}
"""Counts of test items in an evaluation, and how the log, the tables and the report describe these items."""

Backend = Literal["packed", "hf", "vllm"]

PACKED: Backend = "packed"
"""lm-eval's ``hf`` model with shared prefixes and packed answers: the same scores, faster."""

STOCK: Backend = "hf"
"""lm-eval's own ``hf`` model."""

VLLM: Backend = "vllm"
"""lm-eval's ``vllm`` model on a plain checkpoint with the adapter folded in; on GPU."""
