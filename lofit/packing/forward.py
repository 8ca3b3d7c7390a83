"""Forward pass on a batch, with the output head on answers only."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from transformers import DynamicCache

from lofit.interventions.prompt import virtual_tokens
from lofit.interventions.spans import given_spans
from lofit.packing.last_layer import LastLayerTrim
from lofit.packing.patch import patched_forward
from lofit.packing.rows import Rows

KeyValues = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of a text for every layer, each [1, heads, length, width]."""
HALF = (torch.bfloat16, torch.float16)


def prefill(model: Any, ids: Sequence[int]) -> KeyValues:
    """Compute the keys and values of a text; an empty list for an empty text."""
    if not ids:
        return []
    tokens = torch.tensor([ids], device=model.device)
    nowhere = torch.zeros(tokens.shape, dtype=torch.bool, device=model.device)
    cache = DynamicCache()
    with given_spans(prompt=~nowhere, answer=nowhere):
        run(model, input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return _held(cache)


def _held(cache: DynamicCache) -> KeyValues:
    return [(layer.keys, layer.values) for layer in cast("list[Any]", cache.layers)]


def repeated(cached: KeyValues, n: int, cache: DynamicCache | None = None) -> DynamicCache:
    """Build a cache, or fill the empty one that is given, for ``n`` rows that all begin with the same text."""
    cache = DynamicCache() if cache is None else cache
    for layer, (keys, values) in enumerate(cached):
        cache.update(keys.expand(n, -1, -1, -1), values.expand(n, -1, -1, -1), layer)
    return cache


def run(model: Any, input_ids: torch.Tensor, **inputs: Any) -> Any:
    """Run a model on texts, with the virtual tokens of its adapter in front of each.

    Virtual tokens are the beginning of every text and see nothing of it. So their keys and values are computed once for
    all rows, and the rest is what a model does with a text whose beginning is in its cache: masks get columns for it,
    and positions go on after it. PEFT's own forward pass puts them in front of the padding and passes over positions;
    scores would depend on the batch.

    Args:
        model: any causal language model, with its adapters.
        input_ids: int64 [rows, length].
        **inputs: what else the model takes: masks and positions of the texts alone. A cache that is not empty begins
            with the virtual tokens.
    """
    n = virtual_tokens(model)
    if not n:
        return model(input_ids=input_ids, **inputs)
    mask, positions, cache = (inputs.get(name) for name in ("attention_mask", "position_ids", "past_key_values"))
    if mask is not None:
        seen = mask.new_full((*mask.shape[:-1], n), mask.ndim == 2)  # a mask of four dimensions is added to scores
        inputs["attention_mask"] = torch.cat([seen, mask], -1)
    if positions is not None:
        inputs["position_ids"] = positions + n
    begun = cache if cache is not None and cache.get_seq_length() else repeated(_virtual(model), len(input_ids), cache)
    inputs |= {"past_key_values": begun, "use_cache": True}
    output = model.get_base_model()(input_ids=input_ids, **inputs)
    if cache is None:
        begun.crop(-input_ids.shape[1])  # gradient checkpointing runs layers on it again
    return output


def _virtual(model: Any) -> KeyValues:
    """Compute the keys and values of the virtual tokens, with gradient."""
    prompt = model.get_prompt(batch_size=1)
    if isinstance(prompt, torch.Tensor):  # embeddings
        embeddings, prompt = prompt.to(model.dtype), DynamicCache()
        model.get_base_model()(inputs_embeds=embeddings, past_key_values=prompt, use_cache=True, logits_to_keep=1)
    found = _held(prompt)
    prompt.layers.clear()  # gradient checkpointing runs layers on it again
    return found


def answer_logits(
    model: Any, rows: Rows, cache: DynamicCache | None = None, tail: LastLayerTrim | None = None
) -> torch.Tensor:
    """Compute the float32 logits [rows, width, vocabulary] of the columns that hold scored tokens.

    Args:
        model: any causal language model, with its adapters.
        rows: the batch.
        cache: keys and values of the tokens before the batch, to which those of the batch are added; None: there are
            no such tokens.
        tail: the modules of the last layer to compute in these columns only; None: compute every module everywhere.
    """
    limited = tail.limited_to(rows.width) if tail else contextlib.nullcontext()
    with given_spans(rows.prompt, rows.answer), limited, _one_product(model.get_output_embeddings()):
        output = run(
            model,
            input_ids=rows.input_ids,
            attention_mask=rows.attention_mask,
            position_ids=rows.position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=rows.width,
        )
    logits: torch.Tensor = output.logits[:, -rows.width :]
    return logits.float()


def _one_product(head: Any) -> contextlib.AbstractContextManager[None]:
    """Context in which the output head is one matrix product; on the slice that it gets it would be one per row.

    Where nothing is trained it is in float32: logits in bfloat16 are 1/8 apart above 16, so that choices would tie.
    """
    forward = head.forward
    if not torch.is_grad_enabled() and isinstance(head, nn.Linear) and head.weight.dtype in HALF:
        forward = partial(_in_float32, head)
    return patched_forward(head, lambda x: forward(x.contiguous()))


def _in_float32(head: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    bias = head.bias.float() if head.bias is not None else None
    return functional.linear(x.to(head.weight.device).float(), head.weight.float(), bias)


def answer_log_probs(
    model: Any, rows: Rows, cache: DynamicCache | None = None, tail: LastLayerTrim | None = None
) -> torch.Tensor:
    """Compute the log-probability of each answer token: float32 [answer tokens], in the order of ``rows.label``."""
    logits = answer_logits(model, rows, cache, tail)[rows.row, rows.column]
    return -functional.cross_entropy(logits, rows.label, reduction="none")
