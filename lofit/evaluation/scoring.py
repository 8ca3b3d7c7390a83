"""Log-likelihoods of many texts, computed on packed rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from lofit.evaluation.finite import require_finite
from lofit.evaluation.prefixes import by_prefix
from lofit.models.encoding import Example
from lofit.packing.forward import KeyValues, answer_logits, prefill, repeated
from lofit.packing.last_layer import LastLayerTrim
from lofit.packing.rows import Rows, packed
from lofit.packing.trie import Trie

Score = tuple[float, bool]
# (model, texts of each row, length of their cached prefix, its keys and values, padding token) -> a score per text
Scorer = Callable[[Any, Sequence[Sequence[Example]], int, KeyValues, int], list[Score]]
# Output-head rows in one forward pass: bounds the logits to 400 MB for 50,000 tokens in float32.
MOST_SCORED = 2048


def score_rows(
    model: Any, groups: Sequence[Sequence[Example]], prefix: int, cached: KeyValues, pad_id: int
) -> list[Score]:
    """Compute the log-probability of each answer, in nats, and whether it is the greedy continuation.

    Args:
        model: any causal language model that takes a block mask.
        groups: the texts of each row.
        prefix: number of leading tokens that all texts share.
        cached: keys and values of the prefix.
        pad_id: any token.
    """
    rows = packed([[Trie(texts, prefix)] for texts in groups], pad_id, model.device, model.dtype, prefix)
    cache = repeated(cached, len(groups)) if cached else None
    logits = answer_logits(model, rows, cache, LastLayerTrim(model))
    return sums_by_text(logits, rows, sum(map(len, groups)))


def sums_by_text(logits: torch.Tensor, rows: Rows, n_texts: int) -> list[Score]:
    """Sum the log-probabilities of each text's answer, in nats, and check whether it is the greedy continuation.

    Args:
        logits: float32 [rows, width, vocabulary], from :func:`lofit.packing.forward.answer_logits`.
        rows: the batch.
        n_texts: number of texts in the batch.

    Raises:
        FitError: a prediction is not finite.
    """
    at = (rows.row, rows.column)
    totals = logits.logsumexp(-1)[at]
    require_finite(totals)
    log_probs = logits[(*at, rows.label)] - totals
    missed = (logits.argmax(-1)[at] != rows.label).to(log_probs.dtype)
    sums = torch.zeros(2, n_texts, device=log_probs.device)
    sums.index_add_(1, rows.text, torch.stack([log_probs, missed]))
    return [(score, misses == 0) for score, misses in sums.T.tolist()]


@torch.no_grad()
def score_packed(
    model: Any, rows: Sequence[Sequence[Example]], pad_id: int, batch_size: int, scorer: Scorer = score_rows
) -> Iterator[tuple[int, list[Score]]]:
    """Score all texts.

    Args:
        model: a model for which :func:`lofit.packing.support.supports_packing` holds, with all texts within its
            ``longest_packable``.
        rows: the texts of each row, which begin alike.
        pad_id: any token.
        batch_size: most rows in one forward pass.
        scorer: scores a batch.

    Yields:
        The index of a row and a score for each of its texts, longest rows first within a shared prefix.
    """
    for prefix, members in by_prefix(rows):
        cached = prefill(model, rows[members[0]][0].ids[:prefix])
        for batch in _batches(rows, members, batch_size):
            scores = scorer(model, [rows[i] for i in batch], prefix, cached, pad_id)
            for i in batch:
                yield i, scores[: len(rows[i])]
                scores = scores[len(rows[i]) :]


def _batches(rows: Sequence[Sequence[Example]], members: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Yield batches of rows of similar length, longest first, with at most ``MOST_SCORED`` outputs or a single row."""
    size = {i: sum(text.n_answer for text in rows[i]) for i in members}
    length = {i: max(len(text.ids) for text in rows[i]) + size[i] for i in members}
    left = sorted(members, key=lambda i: (-length[i], i))
    while left:
        batch: list[int] = []
        for i in left[:batch_size]:
            if batch and max(size[j] for j in [*batch, i]) * (len(batch) + 1) > MOST_SCORED:
                break
            batch.append(i)
        yield batch
        left = left[len(batch) :]
