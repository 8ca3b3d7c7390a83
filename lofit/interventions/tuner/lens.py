"""Logit lens of offsets: which tokens the offset of a head pushes the model towards (LoFiT, appendix E)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers.pytorch_utils import Conv1D

from lofit.errors import EditError
from lofit.interventions.tuner.parameters import edited_layers
from lofit.interventions.tuner.sites import Site, find_site


@dataclass(frozen=True)
class HeadLens:
    """What the offset of one head adds to the residual stream, read as tokens.

    Attributes:
        layer, head: of the offset, both counted from 0.
        norm: L2 norm of the offset.
        tokens: ids of the most probable tokens, the most probable first.
        probabilities: of these tokens, float32.
    """

    layer: int
    head: int
    norm: float
    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]


@torch.no_grad()
def offset_lens(peft_model: PeftModel, k: int = 10, final_norm: bool = False) -> list[HeadLens]:
    """Project the offset vector of every edited head to the vocabulary.

    The offset ``v`` of head ``h`` adds ``W_o[:, h] v`` to the residual stream, where ``W_o[:, h]`` are the columns of
    the attention output projection that read this head. The probabilities are the softmax of ``U W_o[:, h] v`` with the
    unembedding ``U``, without its bias. This is the direct effect of the offset alone, not of the layers after it.

    Args:
        peft_model: a model with one active LOFIT adapter that has offsets on heads, not merged.
        k: how many tokens of each head.
        final_norm: whether to apply the model's final norm before the unembedding.

    Returns:
        One entry per edited head, by layer, then in the adapter's order of heads.

    Raises:
        EditError: the adapter has no offsets on heads, the weights are quantized, or the model has no unembedding (or
            no single final norm, if that is asked for).
    """
    base: Any = peft_model.get_base_model()
    edited = edited_layers(peft_model)
    site, (name,) = find_site(peft_model), peft_model.active_adapters
    if not edited:
        raise EditError(f"adapter {name!r} has no offsets on heads; the lens reads those alone")
    unembedding = base.get_output_embeddings()
    if unembedding is None:
        raise EditError(f"{type(base).__name__} has no unembedding, so its offsets cannot be read as tokens")
    weight = _matrix(unembedding)
    norm = _final_norm(base, site, weight.shape[1]) if final_norm else nn.Identity()
    found = []
    for layer, module in edited:
        if module.lofit_sites[name].name != "head" or name not in module.lofit_offset:
            raise EditError(f"adapter {name!r} has no offsets on heads; the lens reads those alone")
        columns = _matrix(module.get_base_layer()).unflatten(1, (site.groups, site.width))
        for head, offset in zip(module.lofit_groups[name].tolist(), module.lofit_offset[name], strict=True):
            added = columns[:, head] @ offset.to(columns)
            logits = weight @ norm(added.to(base.dtype)).to(weight)
            best = logits.softmax(0).topk(k)
            tokens, chances = tuple(best.indices.tolist()), tuple(best.values.tolist())
            found.append(HeadLens(layer, head, float(torch.linalg.vector_norm(offset)), tokens, chances))
    return found


def _matrix(module: Any) -> torch.Tensor:
    """Return the weight of a linear map, float32 [out, in]."""
    weight = module.weight
    if not weight.dtype.is_floating_point or weight.ndim != 2:
        raise EditError("the weights are quantized; read the offsets of an adapter on plain weights")
    return (weight.T if isinstance(module, Conv1D) else weight).float()


def _final_norm(base: nn.Module, site: Site, width: int) -> nn.Module:
    """Return the norm before the unembedding: the one beside the layers that comes after them, or is called final."""
    parent, _, layers = site.layers.rpartition(".")
    beside = list(base.get_submodule(parent).named_children())
    after = [name for name, _ in beside].index(layers)
    norms = [
        module
        for place, (name, module) in enumerate(beside)
        if getattr(getattr(module, "weight", None), "shape", None) == (width,) and (place > after or "final" in name)
    ]
    if len(norms) != 1:
        raise EditError(f"{type(base).__name__} has {len(norms)} final norms of width {width}; read without the norm")
    return norms[0]
