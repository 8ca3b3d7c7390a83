"""Parameters of an adapter: count them, compute their norm per head, set them, and change their strength."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import nn

from lofit.errors import EditError
from lofit.interventions.hook import NAME
from lofit.interventions.prompt import virtual_tokens
from lofit.interventions.tuner.layer import EditLayer
from lofit.interventions.tuner.sites import find_site


def parameter_counts(model: nn.Module, foldable: bool = True) -> dict[str, int]:
    """Count the parameters of the active adapters of any PEFT method, or of a model that was trained itself.

    Args:
        model: a PEFT model, not merged, or a plain model.
        foldable: whether adapters of methods other than ``LOFIT`` can be merged.

    Returns:
        ``trained``: numbers that receive gradients now (``requires_grad``), so 0 for an adapter loaded for inference.
        ``stored``: numbers in the adapter file that ``save_pretrained`` writes.
        ``inference``: numbers that the served model has in addition to the base model once the adapter is merged: 0, or
        the biases that folded offsets add where the base has none; equal to ``stored`` if it cannot be merged.
    """
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if not isinstance(model, PeftModel):
        return {
            "trained": trained,
            "stored": sum(parameter.numel() for parameter in model.parameters()),
            "inference": 0,
        }
    stored = 0
    for name in model.active_adapters:
        state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        stored += sum(tensor.numel() for tensor in state.values())
    edits = [module for module in model.modules() if isinstance(module, EditLayer)]
    if edits:
        foldable = all(layer.mergeable for layer in edits)
    foldable = foldable and not virtual_tokens(model)
    biases = sum(layer.new_bias_size(model.active_adapters) for layer in edits) if foldable else 0
    return {"trained": trained, "stored": stored, "inference": biases if foldable else stored}


@torch.no_grad()
def set_vectors(
    peft_model: PeftModel, vectors: Mapping[tuple[int, int], np.ndarray], which: Literal["scale", "offset"] = "offset"
) -> None:
    """Set the offset vectors, or the scaling factors, of the active LOFIT adapter in place.

    Args:
        peft_model: a model with one active adapter that has them.
        vectors: (layer, head) to the vector of that head, or (layer, 0) to that of a whole layer output; float
            [width]. All edited heads or layers must be given, and no others.
        which: ``offset`` for v, ``scale`` for a in z' = (1 + a) z + v.

    Raises:
        EditError: the vectors given do not match those of the adapter, or there is not exactly one active adapter.
    """
    wanted = dict(vectors)
    for layer, module in edited_layers(peft_model):
        (name,) = peft_model.active_adapters
        for row, group in enumerate(module.lofit_groups[name].tolist()):
            own = getattr(module, f"lofit_{which}")
            if name not in own or (layer, group) not in wanted:
                raise EditError(f"no {which} is given for layer {layer}, head {group}, or the adapter has none there")
            own[name][row] = torch.as_tensor(wanted.pop((layer, group)))
    if wanted:
        raise EditError(f"the adapter does not edit {sorted(wanted)[0]}")


@contextlib.contextmanager
def offsets_times(peft_model: nn.Module, factor: float) -> Iterator[None]:
    """Context in which every offset of LOFIT adapters acts ``factor`` times; -1 turns it round.

    What a checkpointed layer computes after its offset is computed again without the factor in the backward pass: take
    this for offsets on the output of layers alone, after which a layer computes nothing.
    """
    layers = [module for module in peft_model.modules() if isinstance(module, EditLayer)]
    for layer in layers:
        layer.offset_factor = factor
    try:
        yield
    finally:
        for layer in layers:
            layer.offset_factor = 1.0


def edited_layers(peft_model: PeftModel) -> list[tuple[int, EditLayer]]:
    """Return layer number and module of everything that the one active adapter edits."""
    active = getattr(peft_model, "active_adapters", [])
    if len(active) != 1:
        raise EditError(f"one active adapter is needed, found {len(active)}; call set_adapter first")
    config: Any = peft_model.peft_config[active[0]]
    if config.peft_type != NAME:
        raise EditError(f"the adapter is {config.peft_type}, which has no vectors on heads; {NAME} has")
    site = find_site(peft_model, config.site)
    modules = [(n, peft_model.get_base_model().get_submodule(site.module_name(n))) for n in range(site.n_layers)]
    return [(n, m) for n, m in modules if isinstance(m, EditLayer) and active[0] in m.lofit_groups]


def head_norms(peft_model: PeftModel, which: Literal["scale", "offset"] = "scale") -> np.ndarray:
    """Return the L2 norm per head of the active adapter's scaling factors ``a`` or offset vectors ``v``.

    The norm of the scaling factors is the score by which LoFiT ranks heads (fc2869/lo-fit).

    Returns:
        float64 [layers, query heads]; 0 at heads that are not selected.

    Raises:
        EditError: there is not exactly one active LOFIT adapter, or it does not learn these vectors.
    """
    site, edited = find_site(peft_model), edited_layers(peft_model)
    norms = np.zeros((site.n_layers, site.groups))
    (name,) = peft_model.active_adapters
    for layer, module in edited:
        vectors = module.lofit_scale if which == "scale" else module.lofit_offset
        if module.lofit_sites[name].name != "head" or name not in vectors:
            raise EditError(f"adapter {name!r} has no {which} vectors of heads; create it with {which}=True")
        heads = module.lofit_groups[name].tolist()
        norms[layer, heads] = torch.linalg.vector_norm(vectors[name].detach().double().cpu(), dim=-1).numpy()
    return norms
