"""Tokenize texts and locate the answer span by character offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lofit.errors import FitError, TaskError, brief

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Example:
    """One tokenized text.

    Attributes:
        ids: token ids of prompt, answer and, in training, end-of-sequence.
        answer_start: index in ``ids`` of the first answer token.
    """

    ids: tuple[int, ...]
    answer_start: int

    @property
    def n_answer(self) -> int:
        """Number of answer tokens, with an end-of-sequence that is in ``ids``."""
        return len(self.ids) - self.answer_start

    @property
    def without_end(self) -> Example:
        """The same text without the end-of-sequence that :func:`encode` appended."""
        return Example(self.ids[:-1], self.answer_start)


Row = tuple[Example, ...]
"""The texts of one row of data: ``(target,)`` for SFT, ``(chosen, rejected)`` for DPO."""


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Tokenize a text in the way that training, activations and evaluation share.

    The special tokens that the tokenizer prepends (BOS) appear once, even if the text itself begins with them, as a
    rendered chat template does. Those that it would append (EOS) are left out, since more text may follow.

    Returns:
        The token ids, and for each token the characters (start, end) that it covers; (0, 0) for prepended tokens.

    Raises:
        FitError: the tokenizer cannot encode the text.
    """
    front, ids, offsets = _parts(tokenizer, text)
    if front and ids[: len(front)] != front:
        ids, offsets = front + ids, [(0, 0)] * len(front) + offsets
    return ids, offsets


def prepended_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of the special tokens that the tokenizer prepends to a text.

    Raises:
        FitError: the tokenizer cannot encode the text.
    """
    return _parts(tokenizer, text)[0]


def _parts(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Return prepended special tokens, and ids and offsets of the text itself; appended special tokens are left out."""
    try:
        encoded = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    except Exception as error:  # a vocabulary without an unknown token raises Exception itself
        raise FitError(f"the tokenizer cannot encode {text[:40]!r} ({brief(error)}); choose another model") from None
    ids, offsets, added = (list(encoded[name]) for name in ("input_ids", "offset_mapping", "special_tokens_mask"))
    start = added.index(0) if 0 in added else len(added)
    end = len(added) - added[::-1].index(0) if 0 in added else start
    return ids[:start], ids[start:end], offsets[start:end]


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str, name: str = "row") -> Example:
    """Tokenize ``prompt + answer`` as one text with :func:`token_ids` and append end-of-sequence.

    The answer begins at the first token that contains one of its characters, so a token across the boundary belongs to
    the answer.

    Raises:
        FitError: prompt or answer has no token, or there is no end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise FitError("the tokenizer has no end-of-sequence token; choose a model that has one")
    ids, offsets = token_ids(tokenizer, prompt + answer)
    while ids and ids[-1] == tokenizer.eos_token_id:  # the text of an answer may end with it
        ids.pop()
    boundary = len(prompt)
    start = next((i for i, (_, end) in enumerate(offsets[: len(ids)]) if end > boundary), len(ids))
    if start == len(ids):
        raise FitError(f"{name}: the answer {answer!r} has no tokens; give a non-empty answer or remove the row")
    if start == 0:
        raise FitError(f"{name}: the prompt has no tokens; a causal model needs at least one before the answer")
    ids.append(tokenizer.eos_token_id)
    return Example(tuple(ids), start)


def check_texts(
    texts: Sequence[tuple[str, Example]], max_length: int | None, window: int | None, vocabulary: int | None
) -> None:
    """Check that the model can read all texts; they are never truncated, since that would change what is learned.

    Args:
        texts: pairs of a name, for messages, and a text.
        max_length: most tokens of a text, end-of-sequence included; None: no limit.
        window: most tokens that the model reads, which do not include end-of-sequence; None: no limit.
        vocabulary: number of rows of the model's embedding; None: not checked.

    Raises:
        FitError: texts are too long (the message names the first of them, and their number), or a token has no row in
            the embedding.
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
    for name, text in texts:
        check_ids(text.ids, vocabulary, name)


def check_ids(ids: Sequence[int], vocabulary: int | None, name: str) -> None:
    """Check that every token is in the model's vocabulary: a tokenizer may have more tokens than the model.

    Raises:
        FitError: a token has no row in the embedding.
    """
    if vocabulary is not None and (largest := max(ids, default=0)) >= vocabulary:
        raise FitError(
            f"{name}: token {largest} has no row in the model's embedding, which has {vocabulary}; resize the model to "
            "its tokenizer (resize_token_embeddings), or remove what holds the token"
        )


def encode_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    objective: str,
    max_length: int,
    window: int | None = None,
    vocabulary: int | None = None,
) -> list[Row]:
    """Encode the texts of every row.

    Args:
        tokenizer: the model's tokenizer.
        rows: rows of a split.
        objective: ``dpo`` or ``bipo`` for preference pairs; any other for prompts with a target.
        max_length: most tokens of a text, end-of-sequence included.
        window: most tokens that the model reads; None: no limit.
        vocabulary: number of rows of the model's embedding; None: not checked.

    Raises:
        TaskError: a row lacks a training field.
        FitError: a row cannot be encoded, is too long, or has a token outside the model's vocabulary.
    """
    prompt_field, answer_fields = (
        ("train_prompt", ("chosen", "rejected")) if objective in ("dpo", "bipo") else ("prompt", ("target",))
    )
    encoded = []
    for row in rows:
        missing = [f for f in (prompt_field, *answer_fields) if not isinstance(row.get(f), str)]
        if missing:
            raise TaskError(f"row {row.get('id')!r}: field '{missing[0]}' is missing or not text")
        name = f"row {row.get('id')!r}"
        encoded.append(tuple(encode(tokenizer, row[prompt_field], row[f], name) for f in answer_fields))
    named = [(f"row {row.get('id')!r}", text) for row, texts in zip(rows, encoded, strict=True) for text in texts]
    check_texts(named, max_length, window, vocabulary)
    return encoded
