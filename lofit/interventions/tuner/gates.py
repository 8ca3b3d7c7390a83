"""Hard-concrete gates on the vectors of a LOFIT adapter, one per head and kind of vector.

Source of the distribution: Louizos et al. 2018 (arXiv 1712.01312); constants and initialisation: wenlai-lavine/jola.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils import parametrize

from lofit.interventions.tuner.layer import EditLayer

BETA = 0.33
LOW, HIGH = -0.1, 1.1
EPSILON = 1e-6


class HardConcrete(nn.Module):
    """Multiplies vectors, float32 [heads, width], by a gate in [0, 1] per head.

    The gate is g = clamp(s (HIGH - LOW) + LOW, 0, 1). With gradients on, s = sigmoid((log u - log(1 - u) + log a) /
    BETA), where :meth:`draw` drew u uniformly, so that every pass of a step has the same gates. With gradients off, s =
    sigmoid(log a), so that evaluation is deterministic.

    Args:
        heads: number of gates.
        generator: generator of the initial values, uniform in +-sqrt(6 / (1 + heads)), and of the noise.
    """

    def __init__(self, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = math.sqrt(6 / (1 + heads))
        self.log_a = nn.Parameter((torch.rand(heads, 1, generator=generator) * 2 - 1) * bound)
        self.generator = generator
        self.draw()

    def draw(self) -> None:
        """Draw new noise, as at the start of every step."""
        self.u = torch.rand(self.log_a.shape, generator=self.generator).clamp(EPSILON, 1 - EPSILON)

    def gate(self) -> torch.Tensor:
        """Compute the gates: float32 [heads, 1]."""
        if torch.is_grad_enabled():
            u = self.u.to(self.log_a)
            s = torch.sigmoid((u.log() - (1 - u).log() + self.log_a) / BETA)
        else:
            s = torch.sigmoid(self.log_a)
        return (s * (HIGH - LOW) + LOW).clamp(0, 1)

    def open_probability(self) -> torch.Tensor:
        """Compute the probability that a drawn gate is not 0: float32 [heads, 1]."""
        return torch.sigmoid(self.log_a - BETA * math.log(-LOW / HIGH)).clamp(EPSILON, 1 - EPSILON)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Apply the gates to vectors."""
        return self.gate() * vectors


class Gates:
    """All gates of a model's active LOFIT adapter, which are added to the model on creation.

    Args:
        model: a PEFT model with one active LOFIT adapter.
        seed: seed of :attr:`generator`, which draws the initial values and the noise.
    """

    def __init__(self, model: Any, seed: int) -> None:
        (self._adapter,) = model.active_adapters
        self._device = model.device
        self.generator = torch.Generator().manual_seed(seed)
        self._gates: dict[str, list[tuple[nn.Module, HardConcrete]]] = {"scale": [], "offset": []}
        for module in model.modules():
            if not isinstance(module, EditLayer):
                continue
            for kind, vectors in (("scale", module.lofit_scale), ("offset", module.lofit_offset)):
                values = vectors[self._adapter]
                gate = HardConcrete(len(values), self.generator).to(values.device)
                parametrize.register_parametrization(vectors, self._adapter, gate)
                self._gates[kind].append((vectors, gate))

    def draw(self) -> None:
        """Draw new noise for all gates."""
        for placed in self._gates.values():
            for _, gate in placed:
                gate.draw()

    def open_share(self, kind: Literal["scale", "offset"]) -> torch.Tensor:
        """Compute the mean probability, over all heads, that the gate of a vector is open: a scalar with gradient."""
        return torch.cat([gate.open_probability().to(self._device) for _, gate in self._gates[kind]]).mean()

    @torch.no_grad()
    def close(self) -> dict[str, dict[str, float | list[float]]]:
        """Multiply the gates into the vectors and remove them.

        Returns:
            By kind of vector, of the gates as they are in evaluation: the shares that are exactly 0 (``closed``) and 1
            (``open``), and their ``quartiles``, from the least to the greatest.
        """
        found: dict[str, dict[str, float | list[float]]] = {}
        for kind, placed in self._gates.items():
            values = torch.cat([gate.gate().cpu() for _, gate in placed]).ravel()
            found[kind] = {
                "closed": float((values == 0).float().mean()),
                "open": float((values == 1).float().mean()),
                "quartiles": values.quantile(torch.linspace(0, 1, 5)).tolist(),
            }
            for vectors, _ in placed:
                parametrize.remove_parametrizations(vectors, self._adapter, leave_parametrized=True)
        return found
