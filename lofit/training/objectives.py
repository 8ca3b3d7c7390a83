"""Losses: supervised fine-tuning on the answer, and direct preference optimization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch.nn import functional

from lofit.models.encoding import Row
from lofit.training.forward import Forward


class Objective(Protocol):
    """A loss over rows of examples."""

    def prepare(self, forward: Forward, rows: Sequence[Row], batch_size: int) -> None:
        """Compute once what the loss needs from the unmodified model, which ``forward`` must still be running."""

    def terms(self, rows: Sequence[Row]) -> int:
        """Return the number of terms in the sum over the rows."""

    def total(self, forward: Forward, rows: Sequence[Row]) -> torch.Tensor:
        """Sum the loss over the rows, a float32 scalar; divided by the number of terms it is the mean loss."""


class SftObjective:
    """Token-mean cross-entropy over the batch's answer tokens (LoFiT section 3; fc2869/lo-fit, utils/trainers.py)."""

    def prepare(self, forward: Forward, rows: Sequence[Row], batch_size: int) -> None:
        """Do nothing: this loss needs nothing from the unmodified model."""

    def terms(self, rows: Sequence[Row]) -> int:
        """Return the number of answer tokens, with end-of-sequence where the rows have it."""
        return sum(example.n_answer for (example,) in rows)

    def total(self, forward: Forward, rows: Sequence[Row]) -> torch.Tensor:
        """Sum -log p over all answer tokens."""
        return -forward.log_probs(rows).sum()


class DpoObjective:
    """Sigmoid DPO loss (Rafailov et al. 2023, eq. 7): -log sigmoid(beta * (margin - reference margin)).

    A margin is log p(chosen) - log p(rejected), each summed over the tokens of the answer, with end-of-sequence where
    the rows have it, as in training. The reference is
    the unmodified model. The authors' code uses the model after random initialization for training, and after the
    first epoch for evaluation; this is not reproduced.
    """

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self._reference: dict[Row, torch.Tensor] = {}

    def margins(self, forward: Forward, rows: Sequence[Row]) -> torch.Tensor:
        """Compute log p(chosen) - log p(rejected) of each row: float32 [rows]."""
        chosen, rejected = forward.log_probs(rows).T
        return chosen - rejected

    def prepare(self, forward: Forward, rows: Sequence[Row], batch_size: int) -> None:
        """Compute the reference margin of each pair."""
        with torch.no_grad():
            for start in range(0, len(rows), batch_size):
                part = rows[start : start + batch_size]
                self._reference.update(zip(part, self.margins(forward, part), strict=True))

    def terms(self, rows: Sequence[Row]) -> int:
        """Return the number of pairs."""
        return len(rows)

    def total(self, forward: Forward, rows: Sequence[Row]) -> torch.Tensor:
        """Sum the loss over the pairs."""
        reference = torch.stack([self._reference[row] for row in rows])
        return -functional.logsigmoid(self.beta * (self.margins(forward, rows) - reference)).sum()
