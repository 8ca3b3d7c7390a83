"""Edits written out independently of the package: forward hooks, and for heads one Python loop per head."""

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
    "smollm3": ("model.layers.{}.self_attn.o_proj", 8),
    "granite": ("model.layers.{}.self_attn.o_proj", 8),
    "gemma2": ("model.layers.{}.self_attn.o_proj", 16),
    "gemma3_text": ("model.layers.{}.self_attn.o_proj", 16),
    "olmo2": ("model.layers.{}.self_attn.o_proj", 8),
}

# The second projection of the feed-forward network.
FFN = {
    "gpt2": "transformer.h.{}.mlp.c_proj",
    "gpt_neox": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    "opt": "model.decoder.layers.{}.fc2",
    "phi": "model.layers.{}.mlp.fc2",
}
FFN |= {family: "model.layers.{}.mlp.down_proj" for family in PROJECTIONS if family not in FFN}

Vectors = Mapping[tuple[int, int], torch.Tensor]


@contextlib.contextmanager
def outputs_edited(
    model: nn.Module, path: str, scales: Mapping[int, torch.Tensor], offsets: Mapping[int, torch.Tensor]
) -> Iterator[nn.Module]:
    """Edit what the modules at ``path`` (a decoder layer, or a module in it) return; both map a layer to a vector."""

    def edit(layer: int):
        def hook(module: nn.Module, arguments: tuple, output):
            value = output if isinstance(output, torch.Tensor) else output[0]
            value = value * (1 + scales.get(layer, 0)) + offsets.get(layer, 0)
            return value if isinstance(output, torch.Tensor) else (value, *output[1:])

        return hook

    handles = [
        model.get_submodule(path.format(layer)).register_forward_hook(edit(layer))
        for layer in range(model.config.num_hidden_layers)
    ]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


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
