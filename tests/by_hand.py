"""Head edits written out independently of the package: forward pre-hooks and one Python loop per head."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

# The attention output projection of each family of tests.tiny, and the width of one head.
PROJECTIONS = {
    "llama": ("model.layers.{}.self_attn.o_proj", 8),
    "gemma": ("model.layers.{}.self_attn.o_proj", 16),
    "qwen2": ("model.layers.{}.self_attn.o_proj", 8),
    "qwen3": ("model.layers.{}.self_attn.o_proj", 16),
    "mistral": ("model.layers.{}.self_attn.o_proj", 8),
    "gpt2": ("transformer.h.{}.attn.c_proj", 8),
    "gpt_neox": ("gpt_neox.layers.{}.attention.dense", 8),
    "opt": ("model.decoder.layers.{}.self_attn.out_proj", 8),
    "phi": ("model.layers.{}.self_attn.dense", 8),
}

Vectors = Mapping[tuple[int, int], torch.Tensor]


@contextlib.contextmanager
def edited(model: nn.Module, family: str, scales: Vectors, offsets: Vectors) -> Iterator[nn.Module]:
    """Edit the heads of a plain ``model`` inside the block; ``scales`` and ``offsets`` map (layer, head) to vectors."""
    path, width = PROJECTIONS[family]

    def edit(layer: int):
        def hook(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            (joined,) = arguments
            heads = []
            for head in range(joined.shape[-1] // width):
                z = joined[..., head * width : (head + 1) * width]
                if (layer, head) in scales:
                    z = z + scales[layer, head] * z
                if (layer, head) in offsets:
                    z = z + offsets[layer, head]
                heads.append(z)
            return (torch.cat(heads, dim=-1),)

        return hook

    handles = [
        model.get_submodule(path.format(layer)).register_forward_pre_hook(edit(layer))
        for layer in range(model.config.num_hidden_layers)
    ]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def vectors_of(peft_model: nn.Module, family: str, kind: str, adapter: str = "default") -> dict:
    """Read the vectors of an adapter back by parameter name; rows are the selected heads in ascending order."""
    path, _ = PROJECTIONS[family]
    config = peft_model.peft_config[adapter]
    layers, heads = peft_model.config.num_hidden_layers, peft_model.config.num_attention_heads
    pairs = config.heads or [(layer, head) for layer in range(layers) for head in range(heads)]
    parameters = dict(peft_model.named_parameters())
    found = {}
    for layer in range(layers):
        rows = parameters.get(f"base_model.model.{path.format(layer)}.lofit_{kind}.{adapter}")
        if rows is not None:
            for row, head in enumerate(sorted(head for at, head in pairs if at == layer)):
                found[layer, head] = rows.detach()[row].clone()
    return found
