"""Offsets as vectors that other programs add to the output of a module: lm-eval's ``steered`` model, and llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers.pytorch_utils import Conv1D

from lofit.errors import EditError
from lofit.interventions.tuner.layer import EditLayer
from lofit.interventions.tuner.parameters import edited_layers

STEERED, CONTROL_VECTOR = "steering.pt", "control-vector.gguf"


def write_steered(peft_model: PeftModel, folder: Path) -> None:
    """Write the offsets as ``steering.pt``, which lm-eval's ``steered`` model reads (lm_eval/models/hf_steered.py).

    The file holds, for each edited module, the vector that is added to its output at every position: ``W_o v`` for
    offsets ``v`` on the heads of a layer, whose output projection is linear, and the offset itself elsewhere.

    Raises:
        EditError: the edit is no such sum: it scales, or acts at some positions only.
    """
    model: Any = peft_model.get_base_model()
    prefix = f"{model.base_model_prefix}."  # lm-eval names modules from the model without its head
    entry = {"steering_coefficient": 1.0, "action": "add", "bias": None, "head_index": None}
    found, name = {}, peft_model.active_adapters[0]
    for layer, module in _summands(peft_model):
        path = module.lofit_sites[name].module_name(layer).removeprefix(prefix)
        found[path] = entry | {"steering_vector": _on_output(module, name)}
    torch.save(found, folder / STEERED)


def write_control_vector(peft_model: PeftModel, folder: Path) -> None:
    """Write the offsets as ``control-vector.gguf``, which llama.cpp adds to the residual stream (``--control-vector``).

    ``direction.N``, float32 [hidden size], is added to the output of layer N, counted from 0. Layer 0 can have none
    (llama.cpp, common/common.cpp and src/llama-adapter.cpp).

    Raises:
        EditError: the edit is not on the output of layers from layer 1 on; or see :func:`write_steered`.
    """
    from gguf import GGUFWriter

    edited, name = _summands(peft_model), peft_model.active_adapters[0]
    if any(module.lofit_sites[name].name != "block" for _, module in edited):
        raise EditError("a control vector is added to the output of layers, and this edit is made elsewhere in them")
    directions = {layer: module.lofit_offset[name].detach().float().flatten().cpu() for layer, module in edited}
    if 0 in directions:
        raise EditError("llama.cpp adds no control vector to the output of layer 0, which this edit changes")
    model: Any = peft_model.get_base_model()
    writer = GGUFWriter(folder / CONTROL_VECTOR, "controlvector")
    writer.add_string("controlvector.model_hint", model.config.get_text_config().model_type)
    writer.add_uint32("controlvector.layer_count", len(directions))
    for layer, direction in directions.items():
        writer.add_tensor(f"direction.{layer}", direction.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _summands(peft_model: PeftModel) -> list[tuple[int, EditLayer]]:
    """Return layer and module of everything that the one active adapter edits by adding a vector."""
    edited = edited_layers(peft_model)
    config: Any = peft_model.peft_config[peft_model.active_adapters[0]]
    if config.scale:
        raise EditError("the edit scales, which adding a vector cannot; use --format hf or peft")
    if config.positions != "all":
        raise EditError("the edit acts at some positions only, and such a vector is added at all; use --format peft")
    return edited


@torch.no_grad()
def _on_output(module: EditLayer, name: str) -> torch.Tensor:
    """Return what the offsets of an adapter add to the output of a module, float32 [features] on the CPU."""
    site, offset = module.lofit_sites[name], module.lofit_offset[name].float()
    if site.side == "output":
        return (offset / site.gain).flatten().cpu()
    base: Any = module.get_base_layer()
    weight = (base.weight.T if isinstance(base, Conv1D) else base.weight).float()
    heads = weight.unflatten(1, (site.groups, site.width))[:, module.lofit_groups[name]]
    return torch.einsum("ohw,hw->o", heads, offset).cpu()
