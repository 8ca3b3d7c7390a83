"""Losses: supervised fine-tuning on the answer, and direct preference optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch.nn import functional

from lofit.fit.examples import Batch, Example, collate
from lofit.interventions.spans import answer_spans

Row = tuple[Example, ...]


def answer_logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Float32 logits [batch, width, vocabulary] that predict ``batch.labels``; the output head runs only there."""
    width = batch.labels.shape[1]
    with answer_spans(batch.attention_mask, (batch.labels != -100).sum(-1)):
        output = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
            logits_to_keep=width,
        )
    return output.logits[:, -width:].float()


def answer_log_probs(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Sum of the answer tokens' log-probabilities, end-of-sequence included: float32 [batch]."""
    logits = answer_logits(model, batch)
    losses = functional.cross_entropy(logits.transpose(1, 2), batch.labels, ignore_index=-100, reduction="none")
    return -losses.sum(-1)


class Objective(Protocol):
    """A loss over rows of examples."""

    def prepare(self, model: torch.nn.Module, rows: Sequence[Row]) -> None:
        """Compute once what the loss needs of the unmodified model (which ``model`` is when this is called)."""

    def total(self, model: torch.nn.Module, rows: Sequence[Row]) -> tuple[torch.Tensor, int]:
        """Sum of the loss over the rows (a float32 scalar), and over how many terms; their ratio is the mean loss."""


class SftObjective:
    """Token-mean cross-entropy over the batch's answer tokens (LoFiT section 3; fc2869/lo-fit, utils/trainers.py)."""

    def __init__(self, pad_id: int, device: torch.device) -> None:
        self.pad_id, self.device = pad_id, device

    def prepare(self, model: torch.nn.Module, rows: Sequence[Row]) -> None:
        """Nothing is needed of the unmodified model."""

    def total(self, model: torch.nn.Module, rows: Sequence[Row]) -> tuple[torch.Tensor, int]:
        """Sum over all answer tokens, end-of-sequence included, and their number."""
        batch = collate([example for (example,) in rows], self.pad_id, self.device)
        logits, labels = answer_logits(model, batch).flatten(0, 1), batch.labels.flatten()
        loss = functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        return loss, sum(example.n_answer for (example,) in rows)


class DpoObjective:
    """Sigmoid DPO loss (Rafailov et al. 2023, eq. 7): -log sigmoid(beta * (margin - reference margin)).

    A margin is log p(chosen) - log p(rejected), each the sum over answer tokens and end-of-sequence. The reference
    is the unmodified model: the authors' code takes it after the random initialisation for training and after the
    first epoch for evaluation, which is not reproduced.
    """

    def __init__(self, pad_id: int, device: torch.device, beta: float, batch_size: int) -> None:
        self.pad_id, self.device, self.beta, self.batch_size = pad_id, device, beta, batch_size
        self._reference: dict[Row, torch.Tensor] = {}

    def margins(self, model: torch.nn.Module, rows: Sequence[Row]) -> torch.Tensor:
        """Log p(chosen) - log p(rejected) of each row: float32 [rows]."""
        batch = collate([*(row[0] for row in rows), *(row[1] for row in rows)], self.pad_id, self.device)
        chosen, rejected = answer_log_probs(model, batch).chunk(2)
        return chosen - rejected

    def prepare(self, model: torch.nn.Module, rows: Sequence[Row]) -> None:
        """Reference margins, once per pair."""
        with torch.no_grad():
            for start in range(0, len(rows), self.batch_size):
                part = rows[start : start + self.batch_size]
                self._reference.update(zip(part, self.margins(model, part), strict=True))

    def total(self, model: torch.nn.Module, rows: Sequence[Row]) -> tuple[torch.Tensor, int]:
        """Sum over the pairs, and their number."""
        reference = torch.stack([self._reference[row] for row in rows])
        margins = self.margins(model, rows) - reference
        return -functional.logsigmoid(self.beta * margins).sum(), len(rows)
