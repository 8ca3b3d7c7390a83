"""The training loop, shared by every trained method and localizer, and the loss by which all methods are tuned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from lofit.errors import EditError, FitError, TaskError
from lofit.fit.cost import Meter
from lofit.fit.examples import collate, encode_rows
from lofit.fit.objectives import DpoObjective, Objective, Row, SftObjective, answer_logits
from lofit.progress import track

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

    from lofit.fit.params import LossParams, TrainParams
    from lofit.fit.session import Session

Penalty = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Fitted:
    """A fitted model, with the record of how it came about.

    Attributes:
        model: the PEFT model, adapter active, or the transformers model itself where all its weights are trained; in
            evaluation mode.
        record: what ``fit.json`` tells of it, such as losses, seconds without evaluation, and memory.
    """

    model: Any
    record: dict[str, Any]


def make_objective(session: Session, params: LossParams) -> Objective:
    """The objective of the session's task."""
    tokenizer = session.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    assert isinstance(pad, int)
    if session.objective == "sft":
        return SftObjective(pad, session.model.device)
    return DpoObjective(pad, session.model.device, params.beta, params.batch_size)


class Validation:
    """The objective's mean loss on the validation rows: per answer token (SFT) or per preference pair (DPO).

    Made while the session's model is the unmodified one, which DPO takes as its reference.

    Raises:
        EditError: the model already has an adapter.
    """

    def __init__(self, session: Session, params: LossParams) -> None:
        if any(isinstance(module, BaseTunerLayer) for module in session.model.modules()):
            raise EditError("the session's model already has an adapter; open a new session, or unload the adapter")
        self.objective = make_objective(session, params)
        self.rows = encode_rows(session.tokenizer, session.validation, session.objective, params.max_length)
        self.batch_size = params.batch_size
        self.objective.prepare(session.model, self.rows)

    @torch.no_grad()
    def loss(self, model: nn.Module) -> float | None:
        """The mean loss of ``model``; None without validation rows.

        Raises:
            FitError: it is not finite.
        """
        total, count = 0.0, 0
        for start in range(0, len(self.rows), self.batch_size):
            part, terms = self.objective.total(model, self.rows[start : start + self.batch_size])
            total, count = total + part.item(), count + terms
        if not math.isfinite(total):
            raise FitError(f"validation loss is {total}; the edit is too large, lower the learning rate")
        return total / count if count else None


def batches(rows: Sequence[Row], size: int, generator: torch.Generator) -> Iterator[list[Row]]:
    """One epoch: the rows in a random order, ``size`` at a time; the last batch may be smaller."""
    order = torch.randperm(len(rows), generator=generator).tolist()
    for start in range(0, len(order), size):
        yield [rows[i] for i in order[start : start + size]]


def train(
    session: Session,
    config: PeftConfig | None,
    params: TrainParams,
    title: str,
    penalty: Callable[[PeftModel], Penalty] | None = None,
) -> Fitted:
    """Fit an adapter, or all weights of the model, on the session's training rows. Uses the session's model up.

    AdamW, linear decay to zero, gradient-norm clipping; the L1 penalty is the *sum* of absolute values over all
    trained parameters (fc2869/lo-fit, utils/trainers.py) and is part of the training loss only. The last epoch's
    weights are kept. Dropout is off.

    Args:
        session: model, tokenizer and rows.
        config: the adapter to train; None trains the model itself.
        params: hyperparameters.
        title: what the progress bar says.
        penalty: called once with the fresh adapter model; what it returns is called at every training step, and its
            value, a scalar, is added to the loss.

    Raises:
        FitError: a loss or a trained value is not finite.
        EditError: the edit has no effect, the disabled adapter is not the unmodified model, or the session was used
            before.
    """
    validation = Validation(session, params)
    rows = encode_rows(session.tokenizer, session.train, session.objective, params.max_length)
    if not rows:
        raise TaskError("there are no training rows; raise n_train")
    objective, live = validation.objective, LiveCheck(session, rows[0])
    meter = Meter(session.model.device)
    objective.prepare(session.model, rows)
    model = wrap(session, config) if config else session.model.requires_grad_(True)
    extra = penalty(model) if penalty else None  # type: ignore[arg-type]
    record = _loop(session, model, rows, validation, params, meter, title, extra)
    record["trained_params"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if config is None:  # frozen, as it was when it was measured: torch rounds differently for weights that are not
        model.requires_grad_(False)
    live.check(model)
    return Fitted(model, record)


def wrap(session: Session, config: PeftConfig) -> PeftModel:
    """Put a fresh adapter on the session's model; its random initialisation depends on the seed alone.

    Raises:
        EditError: the method cannot be put on models of this family.
    """
    from peft import get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(session.seed)  # PEFT's own tuners initialise from the global generator
        try:
            model = get_peft_model(session.model, config)
        except EditError:
            raise
        except (TypeError, ValueError) as error:
            family = type(session.model).__name__
            raise EditError(f"{type(config).__name__} does not fit {family}: {error}") from None
    return model.eval()


def _loop(
    session: Session,
    model: nn.Module,
    rows: list[Row],
    validation: Validation,
    params: TrainParams,
    meter: Meter,
    title: str,
    penalty: Penalty | None,
) -> dict[str, Any]:
    trained = [p for p in model.parameters() if p.requires_grad]
    steps = params.epochs * math.ceil(len(rows) / params.batch_size)
    optimizer = torch.optim.AdamW(trained, lr=params.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=params.weight_decay)
    warmup = round(params.warmup * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps, warmup))
    generator = torch.Generator().manual_seed(session.seed)
    losses: list[float] = []
    tokens = 0
    away = 0.0  # seconds spent on validation, which is not part of the cost of training

    def validate() -> float | None:
        nonlocal away
        before = meter.seconds()
        value = validation.loss(model)
        away += meter.seconds() - before
        meter.forget()
        return value

    held_out = [validate()]
    with track(title, steps, session.progress) as advance:
        for _ in range(params.epochs):
            for batch in batches(rows, params.batch_size, generator):
                total, count = validation.objective.total(model, batch)
                loss = total / count
                if params.l1:
                    loss = loss + params.l1 * torch.stack([p.abs().sum() for p in trained]).sum()
                if penalty:
                    loss = loss + penalty()
                losses.append(loss.item())
                if not math.isfinite(losses[-1]):
                    raise FitError(f"loss is {losses[-1]} at step {len(losses)} of {steps}; lower the learning rate")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, params.max_grad_norm)
                optimizer.step()
                schedule.step()
                meter.sample()
                tokens += sum(len(example.ids) - 1 for row in batch for example in row)
                advance(f"loss {losses[-1]:.3f}")
            held_out.append(validate())
    if not all(p.isfinite().all() for p in trained):
        raise FitError(f"a trained value is not finite after {steps} steps; lower the learning rate")
    cost = meter.report()
    cost["seconds"] -= away
    return {
        "train_loss": losses,
        "validation_loss": held_out,
        "steps": steps,
        "tokens_per_second": tokens / cost["seconds"],
        **cost,
    }


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate at ``step``: linear up over ``warmup`` steps, then linear down to 0."""
    return step / warmup if step < warmup else (steps - step) / max(1, steps - warmup)


class LiveCheck:
    """Checks on one training text that an edit changes the outputs, and that switched off it does not.

    Made while the session's model is the unmodified one.
    """

    def __init__(self, session: Session, row: Row) -> None:
        self._probe = collate([row[0]], pad_id=row[0].ids[0], device=session.model.device)
        self._base = self._logits(session.model)

    @torch.no_grad()
    def _logits(self, model: nn.Module) -> torch.Tensor:
        return answer_logits(model, self._probe)

    def check(self, model: Any) -> None:
        """Check a fitted model, an adapter model or the trained model itself.

        Raises:
            EditError: it gives the unmodified model's outputs, or its adapter cannot be switched off.
        """
        if torch.equal(self._logits(model), self._base):
            raise EditError(
                "the fitted edit has no effect on the model's output; its layers are not where they were looked for"
            )
        if hasattr(model, "disable_adapter"):
            with model.disable_adapter():
                if not torch.equal(self._logits(model), self._base):
                    raise EditError("with the adapter switched off the model is not the unmodified one")
