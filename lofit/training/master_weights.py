"""What the optimizer updates: float32 copies of trained values that are kept in a lower precision."""

from __future__ import annotations

import torch
from torch import nn


class MasterWeights:
    """The parameters that the optimizer updates: the trained values, or float32 copies of those in a lower precision.

    bfloat16 cannot represent a change of less than 0.4%. Most updates of a trained weight are smaller and would be
    rounded away (Micikevicius et al. 2018, arXiv 1710.03740, section 3.1).

    Attributes:
        values: the trained parameters of the model.
        masters: for each value, the value itself or its float32 copy.
    """

    def __init__(self, values: list[nn.Parameter]) -> None:
        self.values = values
        self.masters = [p if p.dtype.itemsize >= 4 else nn.Parameter(p.detach().float()) for p in values]

    def clear(self) -> None:
        """Drop all gradients."""
        for parameter in [*self.values, *self.masters]:
            parameter.grad = None

    def collect(self) -> list[nn.Parameter]:
        """Move the gradients of the values to the masters, and return the masters."""
        for value, master in zip(self.values, self.masters, strict=True):
            if master is not value and value.grad is not None:
                master.grad, value.grad = value.grad.float(), None
        return self.masters

    @torch.no_grad()
    def round(self) -> None:
        """Copy the masters to the values, rounded to the precision of the values."""
        for value, master in zip(self.values, self.masters, strict=True):
            if master is not value:
                value.copy_(master)
