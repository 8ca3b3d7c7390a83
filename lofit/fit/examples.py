"""From text to token ids, with the answer span located by character offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lofit.errors import FitError, TaskError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Example:
    """One tokenised text.

    Attributes:
        ids: token ids of prompt, answer and end-of-sequence.
        answer_start: index in ``ids`` of the first answer token.
    """

    ids: tuple[int, ...]
    answer_start: int

    @property
    def n_answer(self) -> int:
        """Number of answer tokens, end-of-sequence included."""
        return len(self.ids) - self.answer_start


Row = tuple[Example, ...]
"""The texts of one row of data: ``(target,)`` for SFT, ``(chosen, rejected)`` for DPO."""


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str, name: str = "row") -> Example:
    """Tokenise ``prompt + answer`` in one piece and append end-of-sequence.

    The answer begins at the first token that holds a character of it, so a token that spans the boundary counts
    as answer. Special tokens in front (BOS) are the tokenizer's default, as in evaluation.

    Raises:
        FitError: prompt or answer has no token, or there is no end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise FitError("the tokenizer has no end-of-sequence token; choose a model that has one")
    encoded = tokenizer(prompt + answer, return_offsets_mapping=True)
    ids = list(encoded["input_ids"])
    offsets = encoded["offset_mapping"]
    while ids and ids[-1] == tokenizer.eos_token_id:  # some tokenizers append it themselves
        ids.pop()
    boundary = len(prompt)
    start = next((i for i, (_, end) in enumerate(offsets[: len(ids)]) if end > boundary), len(ids))
    if start == len(ids):
        raise FitError(f"{name}: the answer {answer!r} has no tokens; give a non-empty answer or remove the row")
    if start == 0:
        raise FitError(f"{name}: the prompt has no tokens; a causal model needs at least one before the answer")
    ids.append(tokenizer.eos_token_id)
    return Example(tuple(ids), start)


def check_lengths(texts: Sequence[tuple[str, Example]], max_length: int | None, window: int | None) -> None:
    """Check that texts are within bounds. None is ever cut: what is learned would be another text.

    Args:
        texts: each with what it is called.
        max_length: most tokens, end-of-sequence included; None: any.
        window: most tokens that the model reads, which it never does with end-of-sequence; None: any.

    Raises:
        FitError: how many are longer, and the first of them.
    """
    bounds = {
        f"max_length {max_length}; raise max_length": max_length,
        f"the {window} that the model reads; choose a model that reads more": window and window + 1,
    }
    for bound, most in bounds.items():
        if most and (long := [(name, len(text.ids)) for name, text in texts if len(text.ids) > most]):
            name, length = long[0]
            remedy = "or remove what is longer, which is never cut"
            raise FitError(f"{name}: {length} tokens exceed {bound}, {remedy} ({len(long)} of {len(texts)} texts)")


def encode_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    objective: str,
    max_length: int,
    window: int | None = None,
) -> list[Row]:
    """Encode the texts of every row.

    Args:
        tokenizer: of the model.
        rows: of the split.
        objective: ``sft`` or ``dpo``.
        max_length: most tokens of a text.
        window: most tokens that the model reads.

    Raises:
        TaskError: a row lacks a training field.
        FitError: a row cannot be encoded, or is too long.
    """
    prompt_field, answer_fields = (
        ("prompt", ("target",)) if objective == "sft" else ("train_prompt", ("chosen", "rejected"))
    )
    encoded = []
    for row in rows:
        missing = [f for f in (prompt_field, *answer_fields) if not isinstance(row.get(f), str)]
        if missing:
            raise TaskError(f"row {row.get('id')!r}: field '{missing[0]}' is missing or not text")
        name = f"row {row.get('id')!r}"
        encoded.append(tuple(encode(tokenizer, row[prompt_field], row[f], name) for f in answer_fields))
    named = [(f"row {row.get('id')!r}", text) for row, texts in zip(rows, encoded, strict=True) for text in texts]
    check_lengths(named, max_length, window)
    return encoded
