"""Greedy generation for many prompts with shared prefixes.

Prompts that share a prefix share a row of the first forward pass (:mod:`lofit.packing`), after which every prompt gets
its own keys and values. Decoding then runs on more rows at once, and finished rows are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lofit.evaluation.finite import require_finite
from lofit.evaluation.prefixes import LEAST_PREFIX, shared_prefix
from lofit.interventions.prompt import virtual_tokens
from lofit.interventions.spans import given_spans
from lofit.models.encoding import Example
from lofit.packing.forward import KeyValues, answer_logits, prefill, repeated, run
from lofit.packing.last_layer import LastLayerTrim
from lofit.packing.rows import fill, packed
from lofit.packing.trie import Trie

# Prompts decoded together, per row of a forward pass on prompts; decoding needs far less memory per row.
DECODED_PER_ROW = 4
# A prompt joins a row if it shares at least this part of its tokens with the prompt before it.
LEAST_SHARED = 0.25
Ending = tuple[int, Callable[[list[int]], bool], Sequence[int]]
"""Most tokens to generate; whether a continuation is complete; and tokens that end one, as its last token."""


@torch.no_grad()
def generate(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    ending: Ending,
    pad_id: int,
    batch_size: int,
) -> Iterator[tuple[int, list[int]]]:
    """Continue each prompt greedily.

    Args:
        model: a model for which :func:`lofit.packing.support.supports_packing` holds, with prompts and continuations
            within its ``longest_packable``.
        prompts: token ids of distinct prompts.
        ending: where continuations end.
        pad_id: any token.
        batch_size: most rows in a forward pass on prompts.

    Yields:
        The index of a prompt and its continuation.

    Raises:
        FitError: a prediction is not finite.
    """
    prefix = shared_prefix([Example((*prompt, pad_id), len(prompt)) for prompt in prompts])
    if prefix < LEAST_PREFIX:
        prefix = 0
    cached = prefill(model, prompts[0][:prefix])
    for batch in _batches(prompts, prefix, batch_size):
        order, logits, layers = _read_prompts(model, batch, prompts, prefix, cached, pad_id, batch_size)
        lengths = torch.tensor([len(prompts[i]) for i in order], device=logits.device)
        yield from zip(order, decode(model, logits, layers, lengths, ending), strict=True)


def _batches(prompts: Sequence[tuple[int, ...]], prefix: int, batch_size: int) -> Iterator[list[list[int]]]:
    """Group prompts into families that share a row, and families of similar length into batches, longest first."""
    families: list[list[int]] = []
    for i in sorted(range(len(prompts)), key=lambda i: prompts[i]):
        before = prompts[families[-1][-1]] if families else ()
        shared = next((n for n, (a, b) in enumerate(zip(before, prompts[i], strict=False)) if a != b), len(before))
        if families and len(families[-1]) < batch_size and shared - prefix >= LEAST_SHARED * (len(prompts[i]) - prefix):
            families[-1].append(i)
        else:
            families.append([i])
    families.sort(key=lambda family: (-max(len(prompts[i]) for i in family), family))
    batch: list[list[int]] = []
    for family in families:
        if batch and sum(map(len, batch)) + len(family) > DECODED_PER_ROW * batch_size:
            yield batch
            batch = []
        batch.append(family)
    if batch:
        yield batch


class _PreallocatedLayer(DynamicLayer):
    """Keys and values with room for the tokens to be generated, so that nothing is copied in each step."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, room: int) -> None:
        super().__init__()
        self._room = [torch.cat([x, x.new_zeros(*x.shape[:2], room, x.shape[3])], 2) for x in (keys, values)]
        self._length = keys.shape[2]
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (x[:, :, : self._length] for x in self._room)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values, and return all of them."""
        end = self._length + key_states.shape[2]
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, self._length : end] = new
        self._length = end
        self._show()
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows and drop all others."""
        self._room = [x[rows.to(x.device)] for x in self._room]
        self._show()


def decode(
    model: Any,
    logits: torch.Tensor,
    layers: list[tuple[torch.Tensor, torch.Tensor]],
    lengths: torch.Tensor,
    ending: Ending,
) -> list[list[int]]:
    """Continue prompts greedily that the model has read.

    A prompt may have several rows: the first rows of all prompts come first, then the second ones in the same order. A
    prompt's first row decides on the next token, and all its rows read it.

    Args:
        model: as for :func:`generate`.
        logits: float [prompts, vocabulary], of the next token of each prompt.
        layers: for each layer keys and values [rows, heads, virtual tokens + longest, width], left-padded behind the
            virtual tokens; the list is emptied, so that they are freed.
        lengths: int64 [rows], tokens of each row.
        ending: where continuations end.

    Returns:
        The continuation of each prompt.

    Raises:
        FitError: a prediction is not finite.
    """
    n_tokens, is_done, eos = ending
    longest, n_rows = layers[0][0].shape[2] - virtual_tokens(model), len(lengths) // len(logits)
    cache = DynamicCache()
    while layers:  # each layer's keys and values are freed once they are copied
        cache.layers.append(_PreallocatedLayer(*layers.pop(0), n_tokens))
    mask = (torch.arange(longest, device=logits.device) >= longest - lengths[:, None]).long()
    tokens = _likeliest(logits)
    found: list[list[int]] = [[] for _ in logits]
    asked = list(range(len(found)))  # the prompts that are still being computed
    active = set(asked)
    for step in range(1, n_tokens + 1):
        for i, token in zip(asked, tokens.tolist(), strict=True):
            if i not in active:
                continue
            found[i].append(token)
            if token in eos or is_done(found[i]):
                active.remove(i)
        if not active or step == n_tokens:
            break
        if 2 * len(active) <= len(asked):
            kept = torch.tensor([place for place, i in enumerate(asked) if i in active], device=tokens.device)
            tokens = tokens[kept]
            kept = torch.cat([kept + row * len(asked) for row in range(n_rows)])
            for layer in cache.layers:
                cast(_PreallocatedLayer, layer).keep(kept)
            mask, lengths = mask[kept], lengths[kept]
            asked = [i for i in asked if i in active]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        everywhere = torch.ones(len(mask), 1, dtype=torch.bool, device=tokens.device)
        with given_spans(prompt=~everywhere, answer=everywhere):
            output = run(
                model,
                input_ids=tokens.repeat(n_rows)[:, None],
                attention_mask=mask,
                position_ids=lengths[:, None],
                past_key_values=cache,
                use_cache=True,
            )
        tokens, lengths = _likeliest(output.logits[: len(asked), -1]), lengths + 1
    return found


def _likeliest(logits: torch.Tensor) -> torch.Tensor:
    require_finite(logits.amax(-1))
    return logits.argmax(-1)


def _read_prompts(
    model: Any,
    families: Sequence[Sequence[int]],
    prompts: Sequence[tuple[int, ...]],
    prefix: int,
    cached: KeyValues,
    pad_id: int,
    batch_size: int,
) -> tuple[list[int], torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Run the forward pass on all prompts.

    Returns:
        The order of the prompts; logits [prompts, vocabulary] of their next tokens; and for each layer keys and values
        [prompts, heads, virtual tokens + longest, width], left-padded behind the virtual tokens.
    """
    tries = [Trie([Example((*prompts[i], pad_id), len(prompts[i])) for i in family], prefix) for family in families]
    rows = fill([len(trie) for trie in tries])
    longest = max(len(prompts[i]) for family in families for i in family)
    order: list[int] = []
    logits: list[torch.Tensor] = []
    parts: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
    tail, front = LastLayerTrim(model), torch.arange(virtual_tokens(model))
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        batch = packed([[tries[t] for t in row] for row in part], pad_id, model.device, model.dtype, prefix)
        cache = repeated(cached, len(part))
        scores = answer_logits(model, batch, cache, tail)
        # One token of each prompt is scored, its last one; the trie's targets are in the prompts' order.
        logits.append(scores[batch.row, batch.column])
        row_of, places = [], []
        nodes = 0
        for t in [t for row in part for t in row]:
            for node in tries[t].targets[:, 0]:
                path = tries[t].ancestors[node].nonzero()[:, 0] + nodes
                columns = torch.cat([torch.arange(prefix), prefix + batch.cell_column.cpu()[path]])
                padding = torch.zeros(longest - len(columns), dtype=torch.long)
                places.append(torch.cat([front, padding, len(front) + columns]))
                row_of.append(batch.cell_row[path[0]])
            nodes += len(tries[t])
        at_row, at_column = torch.stack(row_of)[:, None], torch.stack(places)
        parts.append([])
        for layer in cast("list[Any]", cache.layers):
            # A model may be spread over several devices, and its keys and values with it.
            at = (at_row.to(layer.keys.device), slice(None), at_column.to(layer.keys.device))
            parts[-1].append((layer.keys[at].transpose(1, 2), layer.values[at].transpose(1, 2)))
        order += [i for row in part for t in row for i in families[t]]
    del cache
    layers = []
    while parts[0]:
        keys, values = zip(*(part.pop(0) for part in parts), strict=True)
        layers.append((torch.cat(keys), torch.cat(values)))
    return order, torch.cat(logits), layers
