"""The training loop: AdamW on batches of the training rows, from the start or from a save point."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch.optim.lr_scheduler import LambdaLR

from lofit.errors import FitError
from lofit.models.encoding import Row
from lofit.models.meter import Meter
from lofit.progress import track
from lofit.training.dropout import AdapterDropout
from lofit.training.forward import Forward
from lofit.training.master_weights import MasterWeights
from lofit.training.savepoint import SavePoint

if TYPE_CHECKING:
    from lofit.models.session import Session
    from lofit.spec.hyperparameters import TrainParams
    from lofit.training.trainer import Penalty, Validation

T = TypeVar("T")


class Loop:
    """One training of the parameters of a model that require gradients.

    Attributes:
        state: how far the training is, as plain data: ``train_loss`` by step; ``validation_loss`` and other lists of
            what validation measures, before training and after every epoch; ``tokens``; ``seconds`` of earlier
            processes, without validation; whether all operations were ``deterministic``.
        steps: number of steps of the whole training.
    """

    def __init__(
        self,
        session: Session,
        forward: Forward,
        rows: Sequence[Row],
        validation: Validation,
        params: TrainParams,
        meter: Meter,
        penalty: Penalty | None,
        save_point: SavePoint,
        keeps_best: bool,
    ) -> None:
        """Set up the optimizer.

        Args:
            session: for its seed, device and compute options.
            forward: the forward pass of the model.
            rows: training rows.
            validation: for the objective, and for what is measured after every epoch.
            params: hyperparameters.
            meter: started before the training.
            penalty: what is added to the loss of every step.
            save_point: where to go on from, and to save to.
            keeps_best: whether to end with the values of the best epoch instead of the last.
        """
        self._per_epoch = math.ceil(len(rows) / params.batch_size)
        self.steps = params.epochs * self._per_epoch
        self.state: dict[str, Any] = {
            "train_loss": [],
            "validation_loss": [],
            "tokens": 0,
            "seconds": 0.0,
            "deterministic": True,
        }
        self._forward, self._rows, self._validation, self._params = forward, rows, validation, params
        self._meter, self._penalty, self._save_point, self._keeps_best = meter, penalty, save_point, keeps_best
        self._device, self._part_size = session.model.device, session.compute.micro_batch or params.batch_size
        self._scored_every_epoch = keeps_best or session.compute.validate_by == "metric"
        self._trained = MasterWeights([p for p in forward.model.parameters() if p.requires_grad])
        self._optimizer = torch.optim.AdamW(
            self._trained.masters, lr=params.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=params.weight_decay
        )
        self._order = torch.Generator().manual_seed(session.seed)
        self._dropout = AdapterDropout(forward.model, session.seed, self._device)
        self._best: list[torch.Tensor] = []  # on the CPU, in the optimizer's order
        self._excluded = 0.0  # seconds spent on validation and on saving, which are not part of the cost of training

    def run(self, title: str, progress: bool) -> dict[str, Any]:
        """Train, and return the record of it.

        Args:
            title: title of the progress bar.
            progress: whether to show one.

        Raises:
            FitError: a loss, a gradient or a trained value is not finite.
        """
        params, steps = self._params, self.steps
        done = self._resume(title)
        warmup = round(params.warmup * steps)
        self._optimizer.param_groups[0]["initial_lr"] = params.lr
        schedule = LambdaLR(
            self._optimizer, lambda step: learning_rate_factor(step, steps, warmup), last_epoch=done - 1
        )
        with track(title, steps, progress, done) as advance:
            for epoch in range(params.epochs):
                for number, batch in enumerate(batches(self._rows, params.batch_size, self._order)):
                    step = epoch * self._per_epoch + number
                    if step < done:
                        continue
                    loss = self._step(step, batch)
                    schedule.step()
                    advance(f"loss {loss:.3f}")
                    if self._save_point.due:
                        self._save()
                if len(self.state["validation_loss"]) <= epoch + 1:
                    self._validate()
        if self._keeps_best:
            with torch.no_grad():
                for master, value in zip(self._trained.masters, self._best, strict=True):
                    master.copy_(value)
            self._trained.round()
        if not all(p.isfinite().all() for p in self._trained.values):
            raise FitError(f"a trained value is not finite after {steps} steps; lower the learning rate")
        cost = self._meter.report()
        cost["seconds"] += self.state["seconds"] - self._excluded
        return {
            "train_loss": self.state["train_loss"],
            **{name: values for name, values in self.state.items() if name.startswith("validation_")},
            "kept_epoch": best_epoch(self.state) if self._keeps_best else params.epochs,
            "steps": steps,
            "tokens_per_second": self.state["tokens"] / cost["seconds"],
            "deterministic": self.state["deterministic"],
            **cost,
        }

    def _resume(self, title: str) -> int:
        """Restore a save point, or validate the model as it is; return the number of steps that are done."""
        if found := self._save_point.load(self._trained.masters, self._optimizer, self._drawn, self._best):
            self._trained.round()
            self.state.update(found)
            done = len(self.state["train_loss"])
            print(f"{title}: going on from step {done} of {self.steps}", file=sys.stderr, flush=True)
            return done
        self._validate()
        return 0

    @property
    def _drawn(self) -> torch.Generator | None:
        return self._penalty.generator if self._penalty else None

    def _save(self) -> None:
        before = self._meter.seconds()
        record = self.state | {"seconds": self.state["seconds"] + before - self._excluded}
        self._save_point.save(self._trained.masters, self._optimizer, self._drawn, record, self._best)
        self._excluded += self._meter.seconds() - before

    def _validate(self) -> None:
        before = self._meter.seconds()
        scored = self._scored_every_epoch or len(self.state["validation_loss"]) == self._params.epochs
        for name, value in self._validation.measure(self._forward, scored).items():
            self.state.setdefault(f"validation_{name}", []).append(value)
        if self._keeps_best and best_epoch(self.state) == len(self.state["validation_loss"]) - 1 > 0:
            self._best = [p.detach().cpu().clone() for p in self._trained.masters]
        self._excluded += self._meter.seconds() - before
        self._meter.forget()

    def _step(self, step: int, batch: Sequence[Row]) -> float:
        """Update the trained values by one batch, and return its loss."""
        if self._penalty:
            self._penalty.draw()
        total, self.state["deterministic"] = deterministically(
            lambda: self._gradient(step, batch), self.state["deterministic"]
        )
        length = torch.nn.utils.clip_grad_norm_(self._trained.collect(), self._params.max_grad_norm)
        # The one wait for the GPU in each step.
        loss, norm = torch.stack([total, length.to(self._device, torch.float64)]).tolist()
        place = f"step {step + 1} of {self.steps}"
        for name, value in (("loss", loss), ("norm of the gradient", norm)):
            if not math.isfinite(value):
                raise FitError(f"{name} is {value} at {place}; lower the learning rate")
        _update(self._optimizer, place)
        self._trained.round()
        self._meter.sample()
        self.state["train_loss"].append(loss)
        self.state["tokens"] += sum(len(example.ids) - 1 for row in batch for example in row)
        return float(loss)

    def _gradient(self, step: int, batch: Sequence[Row]) -> torch.Tensor:
        """Compute the loss of a step, and its gradient at the trained values; a part of the batch at a time."""
        self._trained.clear()
        objective, penalty, l1 = self._validation.objective, self._penalty, self._params.l1
        count, loss = objective.terms(batch), torch.zeros((), dtype=torch.float64, device=self._device)
        with self._dropout.on(step):
            for start in range(0, len(batch), self._part_size):
                part = objective.total(self._forward, batch[start : start + self._part_size]) / count
                part.backward()
                loss += part.detach()
        if l1 or penalty:
            rest = l1 * torch.stack([p.abs().sum().to(self._device) for p in self._trained.values]).sum()
            if penalty:
                rest = rest + penalty.value(step)
            rest.backward()
            loss += rest.detach()
        return loss


def best_epoch(state: dict[str, Any]) -> int:
    """Return the best epoch, from 1; 0 before the end of the first.

    Args:
        state: lists ``validation_loss`` and, if it is computed, ``validation_metric``; their first value is of the
            model before training.
    """
    losses = state["validation_loss"]
    metrics = state.get("validation_metric", [0.0] * len(losses))
    measured = [dict(validation_loss=loss, validation_metric=at) for loss, at in zip(losses, metrics, strict=True)]
    return min(range(1, len(losses)), key=lambda at: preference(measured[at], "metric"), default=0)


def preference(measured: Mapping[str, Any], select_by: Literal["metric", "loss"] | None) -> tuple[float, float]:
    """Return what is lowest for the best of several: the highest metric and then the lowest loss, or the loss alone.

    Args:
        measured: ``validation_loss`` and, for ``metric``, ``validation_metric``.
        select_by: what decides.
    """
    return -measured["validation_metric"] if select_by == "metric" else 0.0, measured["validation_loss"]


def batches(rows: Sequence[Row], size: int, generator: torch.Generator) -> list[list[Row]]:
    """Draw the batches of one epoch: the rows in random order, ``size`` at a time; one batch may be smaller.

    The batch with most tokens comes first, so that running out of memory shows at once.
    """
    order = torch.randperm(len(rows), generator=generator).tolist()
    drawn = [[rows[i] for i in order[start : start + size]] for start in range(0, len(order), size)]
    largest = max(range(len(drawn)), key=lambda i: sum(len(text.ids) for row in drawn[i] for text in row))
    return [drawn.pop(largest), *drawn]


def deterministically(compute: Callable[[], T], only: bool = True) -> tuple[T, bool]:
    """Compute with deterministic operations only, or again with others if this model has some that it needs.

    Args:
        compute: can be called again.
        only: whether to try; otherwise others are taken at once.

    Returns:
        What was computed, and whether it was with deterministic operations only.
    """
    if only:
        try:
            with only_deterministic(True):
                return compute(), True
        except RuntimeError as error:
            if "deterministic" not in str(error):
                raise
    return compute(), False


@contextlib.contextmanager
def only_deterministic(only: bool) -> Iterator[None]:
    """Context in which an operation without a deterministic implementation raises an error instead of a warning.

    Attention kernels decide by this setting whether their backward pass is deterministic (PyTorch 2.13, aten/native/
    transformers/cuda/attention_backward.cu). Nothing changes if deterministic algorithms are off, or ``only`` is false.
    """
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(enabled, warn_only=warns and not only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns)


def _update(optimizer: torch.optim.Optimizer, name: str) -> None:
    try:
        optimizer.step()
    except RuntimeError as error:  # the learning rate over the bias correction is too large for float32
        if "without overflow" not in str(error):
            raise
        raise FitError(f"an update of the weights overflows at {name}; lower the learning rate") from None


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak learning rate at ``step``: up over ``warmup`` steps, then down to 0, both linear."""
    return step / warmup if step < warmup else (steps - step) / max(1, steps - warmup)
