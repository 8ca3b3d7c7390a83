"""From text to token ids, with the answer span located by character offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lofit.errors import TaskError

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


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str, max_length: int, name: str = "row") -> Example:
    """Tokenise ``prompt + answer`` in one piece and append end-of-sequence.

    The answer begins at the first token that holds a character of it, so a token that spans the boundary counts
    as answer. Special tokens in front (BOS) are the tokenizer's default, as in evaluation.

    Raises:
        TaskError: the answer has no token, there is no end-of-sequence token, or the text exceeds ``max_length``.
    """
    if tokenizer.eos_token_id is None:
        raise TaskError("the tokenizer has no end-of-sequence token; choose a model that has one")
    encoded = tokenizer(prompt + answer, return_offsets_mapping=True)
    ids = list(encoded["input_ids"])
    offsets = encoded["offset_mapping"]
    while ids and ids[-1] == tokenizer.eos_token_id:  # some tokenizers append it themselves
        ids.pop()
    boundary = len(prompt)
    start = next((i for i, (_, end) in enumerate(offsets[: len(ids)]) if end > boundary), len(ids))
    if start == len(ids):
        raise TaskError(f"{name}: the answer {answer!r} has no tokens; give a non-empty answer or remove the row")
    if start == 0:
        raise TaskError(f"{name}: the prompt has no tokens; a causal model needs at least one before the answer")
    ids.append(tokenizer.eos_token_id)
    if len(ids) > max_length:
        raise TaskError(f"{name}: {len(ids)} tokens exceed max_length {max_length}; raise max_length or remove the row")
    return Example(tuple(ids), start)


def encode_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]], objective: str, max_length: int
) -> list[Row]:
    """Encode the texts of every row.

    Raises:
        TaskError: a row lacks a training field or cannot be encoded.
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
        encoded.append(tuple(encode(tokenizer, row[prompt_field], row[f], max_length, name) for f in answer_fields))
    return encoded
