"""Numbers about an adapter: how many parameters it has, and how strongly it edits each head."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from lofit.errors import EditError
from lofit.interventions.tuner.layer import HeadEditLayer
from lofit.interventions.tuner.sites import find_head_site


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Count the parameters of the active adapters of any PEFT method; all but ``trained`` are 0 for a plain model.

    Returns:
        ``trained``: numbers that receive gradients now (``requires_grad``), so 0 for an adapter loaded for inference.
        ``stored``: numbers in the adapter file that ``save_pretrained`` writes.
        ``inference``: numbers the served model holds beyond the base model: equal to ``stored`` while the adapter is
        kept apart, 0 once it is merged.
    """
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    stored = 0
    if isinstance(model, PeftModel):
        for name in model.active_adapters:
            state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
            stored += sum(tensor.numel() for tensor in state.values())
    merged = any(isinstance(module, BaseTunerLayer) and module.merged for module in model.modules())
    return {"trained": trained, "stored": stored, "inference": 0 if merged else stored}


def head_norms(peft_model: PeftModel, which: Literal["scale", "offset"] = "scale") -> np.ndarray:
    """Return the L2 norm per head of the active adapter's scaling factors ``a`` or offset vectors ``v``.

    The norm of the scaling factors is the score by which LoFiT ranks heads (fc2869/lo-fit).

    Returns:
        float64 [layers, query heads]; 0 at heads that are not selected.

    Raises:
        EditError: there is not exactly one active LOFIT adapter, or it does not learn these vectors.
    """
    site = find_head_site(peft_model)
    active = getattr(peft_model, "active_adapters", [])
    if len(active) != 1:
        raise EditError(f"head norms need exactly one active adapter, found {len(active)}; call set_adapter first")
    norms = np.zeros((site.n_layers, site.n_heads))
    base, found = peft_model.get_base_model(), False
    for layer in range(site.n_layers):
        module = base.get_submodule(site.module_name(layer))
        if not isinstance(module, HeadEditLayer):
            continue
        vectors = module.lofit_scale if which == "scale" else module.lofit_offset
        if active[0] in vectors:
            found = True
            heads = module.lofit_heads[active[0]].tolist()
            norms[layer, heads] = torch.linalg.vector_norm(vectors[active[0]].detach().double().cpu(), dim=-1).numpy()
    if not found:
        raise EditError(f"adapter {active[0]!r} has no {which} vectors; create it with LofitConfig({which}=True)")
    return norms
