"""Log-likelihoods of many texts from rows that share what the texts share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import DynamicCache

from lofit.evaluate.trie import by_prefix, collate_rows
from lofit.fit.examples import Example, collate
from lofit.fit.objectives import answer_logits
from lofit.interventions.spans import given_spans

Score = tuple[float, bool]
KeyValues = Sequence[tuple[torch.Tensor, torch.Tensor]]
# (model, texts of each row, length of their cached beginning, its keys and values, padding token) -> a score per text
Scorer = Callable[[Any, Sequence[Sequence[Example]], int, KeyValues, int], list[Score]]
# Output-head rows in one forward pass: bounds the logits to 400 MB for 50,000 tokens in float32.
MOST_SCORED = 2048


def longest_packable(model: Any) -> int:
    """Longest text, in tokens, whose attention a block mask expresses; 0 if the model takes no such mask at all.

    Packing needs positions given from outside, attention that is a masked softmax, and no window shorter than the text.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    config = base.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) | {"full_attention"}
    if (
        "position_ids" not in inspect.signature(base.forward).parameters
        or getattr(config, "alibi", False)
        or base._is_stateful
        or config._attn_implementation not in {"sdpa", "eager"}
        or kinds - {"full_attention", "sliding_attention", "chunked_attention"}
    ):
        return 0
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size")]
    if getattr(config, "use_sliding_window", None) is False:
        windows[0] = None
    return min((int(window) for window in windows if window), default=2**31)


@torch.no_grad()
def packing_holds(model: Any, tolerance: float = 1e-2) -> bool:
    """Whether the model gives two texts with a common beginning the same scores packed as it gives them apart.

    Args:
        model: any causal language model.
        tolerance: largest difference of log-probabilities, in nats, relative to their size.
    """
    first = min(20, model.config.get_text_config().vocab_size // 2)
    ids = list(range(first, first + 12))
    texts = [Example((*ids[:8], *ids[8:11]), 8), Example((*ids[:8], *ids[9:]), 7), Example((*ids[:9], ids[2]), 8)]
    packed = score_rows(model, [texts], 3, prefill(model, ids[:3]), 0)
    batch = collate(texts, 0, model.device)
    wanted = batch.labels != -100
    log_probs = answer_logits(model, batch).log_softmax(-1).gather(-1, batch.labels.clamp(min=0)[..., None])[..., 0]
    apart = (log_probs * wanted).sum(-1).tolist()
    return all(abs(a - b) <= tolerance * max(1, abs(b)) for (a, _), b in zip(packed, apart, strict=True))


def prefill(model: Any, ids: Sequence[int]) -> KeyValues:
    """Keys and values [1, heads, length, width] of a text in every layer; none for an empty text."""
    if not ids:
        return []
    tokens = torch.tensor([ids], device=model.device)
    nowhere = torch.zeros(tokens.shape, dtype=torch.bool, device=model.device)
    cache = DynamicCache()
    with given_spans(prompt=~nowhere, answer=nowhere):
        model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return [(layer.keys, layer.values) for layer in cast("list[Any]", cache.layers)]


def score_rows(
    model: Any, groups: Sequence[Sequence[Example]], prefix: int, cached: KeyValues, pad_id: int
) -> list[Score]:
    """Log-probability of each answer, in nats, and whether it is the greedy continuation.

    Args:
        model: any causal language model that takes a block mask.
        groups: the texts of each row.
        prefix: number of first tokens, shared by all texts.
        cached: their keys and values.
        pad_id: any token.
    """
    rows = collate_rows(groups, prefix, pad_id, model.device, model.dtype)
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(cached):
        shape = (len(rows.input_ids), -1, -1, -1)
        cache.update(keys.expand(shape), values.expand(shape), layer)
    with given_spans(rows.prompt, rows.answer):
        logits = model(
            input_ids=rows.input_ids,
            attention_mask=rows.attention_mask,
            position_ids=rows.position_ids,
            past_key_values=cache if cached else None,
            use_cache=bool(cached),
            logits_to_keep=rows.width,
        ).logits[:, -rows.width :]
    logits = logits.float()
    at = (rows.row, rows.column)
    log_probs = logits[(*at, rows.label)] - logits.logsumexp(-1)[at]
    missed = (logits.argmax(-1)[at] != rows.label).to(log_probs.dtype)
    sums = torch.zeros(2, sum(map(len, groups)), device=log_probs.device)
    sums.index_add_(1, rows.text, torch.stack([log_probs, missed]))
    return [(score, misses == 0) for score, misses in sums.T.tolist()]


@torch.no_grad()
def score_packed(
    model: Any, rows: Sequence[Sequence[Example]], pad_id: int, batch_size: int, scorer: Scorer = score_rows
) -> Iterator[tuple[int, list[Score]]]:
    """Score all texts.

    Args:
        model: one for which :func:`packing_holds`, all texts within :func:`longest_packable`.
        rows: texts that begin alike, by row.
        pad_id: any token.
        batch_size: most rows in one forward pass.
        scorer: scores a batch.

    Yields:
        The index of a row, and a score for each of its texts, longest rows first within a shared beginning.
    """
    for prefix, members in by_prefix(rows):
        cached = prefill(model, rows[members[0]][0].ids[:prefix])
        for batch in _batches(rows, members, batch_size):
            scores = scorer(model, [rows[i] for i in batch], prefix, cached, pad_id)
            for i in batch:
                yield i, scores[: len(rows[i])]
                scores = scores[len(rows[i]) :]


def _batches(rows: Sequence[Sequence[Example]], members: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Batches of rows of like size, largest first, of at most ``MOST_SCORED`` outputs unless one row alone has more."""
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
