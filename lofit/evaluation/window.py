"""Prompts longer than the model reads are truncated on the left, as in lm-eval, and counted; answers never are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs

from lofit.errors import FitError


def check_answers(requests: Sequence[tuple[Any, list[int], list[int]]], window: int) -> None:
    """Check that every answer has tokens, and fits into the window completely with at least one token before it.

    Args:
        requests: ``((context, continuation), context ids, continuation ids)``.
        window: most tokens that the model reads.

    Raises:
        FitError: an answer has no tokens, or more than the model reads.
    """
    for strings, _, answer in requests:
        shown = f"the answer {strings[1][:40]!r}" if strings else "an answer"
        if not answer:
            raise FitError(f"{shown} has no tokens for this tokenizer, so it cannot be scored; fix or remove the item")
        if len(answer) > window:
            raise FitError(
                f"{shown} has {len(answer)} tokens and the model reads {window}; remove the item, or choose a model "
                "that reads more"
            )


def check_room(n_tokens: int, window: int) -> None:
    """Check that the tokens to be generated leave room for a prompt.

    Raises:
        FitError: they leave none.
    """
    if n_tokens >= window:
        raise FitError(
            f"{n_tokens} tokens are to be generated and the model reads {window}, prompt included; choose a model that "
            "reads more"
        )


def cut_items(lm: Any, samples: Sequence[dict[str, Any]]) -> int:
    """Count the items with a truncated prompt.

    Args:
        lm: the model that computed the samples: any of lm-eval's models that has a tokenizer.
        samples: samples as lm-eval logs them, from one or several definitions.
    """
    lengths: dict[str, int] = {}

    def length(text: str) -> int:
        if text not in lengths:
            lengths[text] = len(lm.tok_encode(text))
        return lengths[text]

    def cut(first: str, second: Any) -> bool:
        if isinstance(second, dict):
            room = lm.max_length - int(normalize_gen_kwargs(second, lm.max_gen_toks)["max_gen_toks"])
            return length(first) > room
        if length(first) + 2 * len(second.encode()) <= lm.max_length:  # no tokenizer makes two tokens from one byte
            return False
        context, answer = lm._encode_pair(first, second)
        return len(context) + len(answer) > lm.max_length + 1  # the last token is only predicted

    return len({sample["doc_id"] for sample in samples if any(cut(*pair) for pair in sample["arguments"])})
