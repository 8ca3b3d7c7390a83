"""Damage that is done to attention heads on purpose, so that it is known which of them need changing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from lofit.errors import EditError
from lofit.files import atomic_path
from lofit.interventions import Head, find_site


@dataclass(frozen=True)
class Damage:
    """Damage ``z' = factor * z - offset`` at some heads, with z the output of a head as LoFiT edits it.

    Attributes:
        heads: the damaged heads, each once.
        factors: float32 [heads].
        offsets: float32 [heads, head dimension].
    """

    heads: tuple[Head, ...]
    factors: torch.Tensor
    offsets: torch.Tensor

    def at(self, heads: list[Head]) -> Damage:
        """Return the damage of some of the heads alone."""
        places = [self.heads.index(head) for head in heads]
        return Damage(tuple(heads), self.factors[places], self.offsets[places])

    def save(self, path: Path) -> None:
        """Write the damage as safetensors."""
        heads = torch.tensor(self.heads, dtype=torch.int64).reshape(-1, 2)
        with atomic_path(path) as part:
            save_file({"heads": heads, "factors": self.factors, "offsets": self.offsets.contiguous()}, part)

    @classmethod
    def load(cls, path: Path) -> Damage:
        """Read the file that :meth:`save` writes."""
        found = load_file(path)
        heads = tuple((int(layer), int(head)) for layer, head in found["heads"].tolist())
        return cls(heads, found["factors"], found["offsets"])


@torch.no_grad()
def apply(model: nn.Module, damage: Damage) -> Callable[[], None]:
    """Damage a plain model in place: scaled columns of the output projection, and a bias ``-W offset`` with intact W.

    Returns:
        A function that restores the very bits.

    Raises:
        EditError: the weights are quantised.
    """
    site = find_site(model)
    before: list[tuple[Any, torch.Tensor, nn.Parameter | None]] = []
    for layer in dict.fromkeys(layer for layer, _ in damage.heads):
        module: Any = model.get_submodule(site.module_name(layer))
        if not module.weight.is_floating_point():
            raise EditError("heads are damaged in their weights, which are quantised here; set dtype to auto")
        before.append((module, module.weight.detach().clone(), module.bias))
        weight = module.weight.data.T if isinstance(module, Conv1D) else module.weight.data
        shift = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
        for (_, head), factor, offset in (
            entry for entry in zip(damage.heads, damage.factors, damage.offsets, strict=True) if entry[0][0] == layer
        ):
            columns = weight[:, head * site.width : (head + 1) * site.width]
            shift += columns.double() @ offset.to(columns.device).double()
            columns *= float(factor)
        if shift.any():
            bias = -shift if module.bias is None else module.bias.double() - shift
            module.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)

    def restore() -> None:
        for module, weight, bias in before:
            module.weight.data.copy_(weight)
            module.bias = bias

    return restore


@contextlib.contextmanager
def damaged(model: nn.Module, damage: Damage) -> Iterator[None]:
    """Context in which a plain model is damaged."""
    restore = apply(model, damage)
    try:
        yield
    finally:
        restore()


class Planted:
    """Damage that a model carries, and that can be taken back for a while.

    Attributes:
        model: the model, which is damaged from now on.
        damage: the damage.
    """

    def __init__(self, model: nn.Module, damage: Damage) -> None:
        self.model, self.damage = model, damage
        self._restore = apply(model, damage)

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """Context in which the model is intact, to the very bits."""
        self._restore()
        try:
            yield
        finally:
            self._restore = apply(self.model, self.damage)
