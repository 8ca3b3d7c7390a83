"""Losses: supervised fine-tuning on the answer, preference optimization, and distance to an intact model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.nn import functional

from lofit.interventions import offsets_times
from lofit.models.damage import Planted
from lofit.models.encoding import Row
from lofit.packing.rows import PAD
from lofit.training.forward import Forward


class Objective(Protocol):
    """A loss over rows of examples."""

    def prepare(self, model: Any, rows: Sequence[Row], batch_size: int) -> None:
        """Compute once what the loss needs from the model, which must be unmodified still."""

    def terms(self, rows: Sequence[Row]) -> int:
        """Return the number of terms in the sum over the rows."""

    def total(self, forward: Forward, rows: Sequence[Row]) -> torch.Tensor:
        """Sum the loss over the rows, a float32 scalar; divided by the number of terms it is the mean loss."""

    def measures(self, forward: Forward, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Sum over the rows what validation reports, by name: ``loss``, as in :meth:`total`, and what is at hand."""


class SftObjective:
    """Token-mean cross-entropy over the batch's answer tokens (LoFiT section 3; fc2869/lo-fit, utils/trainers.py)."""

    def prepare(self, model: Any, rows: Sequence[Row], batch_size: int) -> None:
        """Do nothing: this loss needs nothing from the unmodified model."""

    def terms(self, rows: Sequence[Row]) -> int:
        """Return the number of answer tokens, with end-of-sequence where the rows have it."""
        return sum(example.n_answer for (example,) in rows)

    def total(self, forward: Forward, rows: Sequence[Row]) -> torch.Tensor:
        """Sum -log p over all answer tokens."""
        return -forward.log_probs(rows).sum()

    def measures(self, forward: Forward, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Sum the loss."""
        return {"loss": self.total(forward, rows)}


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

    def rewards(self, forward: Forward, rows: Sequence[Row]) -> torch.Tensor:
        """Compute by how much the implicit reward of the chosen answer is higher, in each row: float32 [rows]."""
        reference = torch.stack([self._reference[row] for row in rows])
        return self.beta * (self.margins(forward, rows) - reference)

    def prepare(self, model: Any, rows: Sequence[Row], batch_size: int) -> None:
        """Compute the reference margin of each pair."""
        forward = Forward(model, rows, PAD)
        with torch.no_grad():
            for start in range(0, len(rows), batch_size):
                part = rows[start : start + batch_size]
                self._reference.update(zip(part, self.margins(forward, part), strict=True))

    def terms(self, rows: Sequence[Row]) -> int:
        """Return the number of pairs."""
        return len(rows)

    def total(self, forward: Forward, rows: Sequence[Row]) -> torch.Tensor:
        """Sum the loss over the pairs."""
        return -functional.logsigmoid(self.rewards(forward, rows)).sum()

    def measures(self, forward: Forward, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Sum the loss, and count the pairs whose chosen answer has the higher implicit reward."""
        rewards = self.rewards(forward, rows)
        return {"loss": -functional.logsigmoid(rewards).sum(), "preference_accuracy": (rewards > 0).sum()}


class BipoObjective(DpoObjective):
    """Bidirectional preference loss of offsets v (Cao et al. 2024, arXiv 2406.00045, eq. 3).

    The mean over d = 1 and d = -1 of -log sigmoid(d beta (margin with offsets d v - reference margin)): with v, the
    chosen answer becomes more likely than the rejected one, and with -v less.
    """

    def total(self, forward: Forward, rows: Sequence[Row]) -> torch.Tensor:
        """Sum the loss over the pairs."""
        return torch.stack([self._directed(forward, rows, direction) for direction in (1.0, -1.0)]).mean()

    def _directed(self, forward: Forward, rows: Sequence[Row], direction: float) -> torch.Tensor:
        with offsets_times(forward.model, direction):
            return -functional.logsigmoid(direction * self.rewards(forward, rows)).sum()


class KlObjective:
    """Mean over answer tokens of KL(p || q) in nats, p the predictions of the intact model and q those of the model.

    p is computed once, with the damage undone, and kept on the CPU: 4 bytes x vocabulary for every answer token.
    """

    def __init__(self, planted: Planted) -> None:
        self._planted = planted
        self._intact: dict[Row, torch.Tensor] = {}

    @torch.no_grad()
    def prepare(self, model: Any, rows: Sequence[Row], batch_size: int) -> None:
        """Compute the log-probabilities of the intact model: float32 [answer tokens, vocabulary] of each row."""
        forward = Forward(model, rows, PAD)
        with self._planted.undone():
            for start in range(0, len(rows), batch_size):
                part = rows[start : start + batch_size]
                logits, places = forward.logits(part)
                found = logits.log_softmax(-1).cpu()
                self._intact.update({row: found[places.cpu() == place] for place, row in enumerate(part)})

    def terms(self, rows: Sequence[Row]) -> int:
        """Return the number of answer tokens."""
        return sum(example.n_answer for (example,) in rows)

    def total(self, forward: Forward, rows: Sequence[Row]) -> torch.Tensor:
        """Sum the divergence over all answer tokens."""
        logits, places = forward.logits(rows)
        intact = torch.cat([self._intact[rows[place]] for place in dict.fromkeys(places.tolist())]).to(logits.device)
        return functional.kl_div(logits.log_softmax(-1), intact, reduction="sum", log_target=True)

    def measures(self, forward: Forward, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Sum the loss."""
        return {"loss": self.total(forward, rows)}
