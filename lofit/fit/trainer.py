"""The training loop, shared by every trained method and localizer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lofit.errors import EditError, FitError, TaskError
from lofit.fit.cost import Meter
from lofit.fit.examples import collate, encode_rows
from lofit.fit.objectives import DpoObjective, Objective, Row, SftObjective, answer_logits
from lofit.fit.progress import track

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

    from lofit.fit.session import Session
    from lofit.methods.spec import TrainParams


@dataclass(frozen=True)
class Trained:
    """A fitted adapter on its base, with the record of its training.

    Attributes:
        model: the PEFT model, adapter active, in evaluation mode.
        record: losses per step, validation loss per epoch (entry 0 before training), seconds without evaluation,
            tokens per second and memory.
    """

    model: PeftModel
    record: dict[str, Any]


def make_objective(session: Session, params: TrainParams) -> Objective:
    """The objective of the session's task."""
    tokenizer = session.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    assert isinstance(pad, int)
    if session.objective == "sft":
        return SftObjective(pad, session.model.device)
    return DpoObjective(pad, session.model.device, params.beta, params.batch_size)


def batches(rows: Sequence[Row], size: int, generator: torch.Generator) -> Iterator[list[Row]]:
    """One epoch: the rows in a random order, ``size`` at a time; the last batch may be smaller."""
    order = torch.randperm(len(rows), generator=generator).tolist()
    for start in range(0, len(order), size):
        yield [rows[i] for i in order[start : start + size]]


def train(session: Session, config: PeftConfig, params: TrainParams, title: str) -> Trained:
    """Fit the adapter described by ``config`` on the session's training rows.

    AdamW, linear decay to zero without warm-up, gradient-norm clipping; the L1 penalty is the *sum* of absolute
    values over all trained parameters (fc2869/lo-fit, utils/trainers.py) and is part of the training loss only.
    The last epoch's weights are kept. Dropout is off.

    Raises:
        FitError: a loss is not finite, or memory ran out.
        EditError: the edit has no effect, or the disabled adapter is not the unmodified model.
    """
    rows = encode_rows(session.tokenizer, session.train, session.objective, params.max_length)
    held_out = encode_rows(session.tokenizer, session.validation, session.objective, params.max_length)
    if not rows:
        raise TaskError("there are no training rows; raise n_train")
    device = session.model.device
    objective = make_objective(session, params)
    probe = collate([rows[0][0]], pad_id=rows[0][0].ids[0], device=device)
    with torch.no_grad():
        base_logits = answer_logits(session.model, probe)
    with _memory_errors():
        objective.prepare(session.model, held_out)
        meter = Meter(device)
        objective.prepare(session.model, rows)
        model = wrap(session, config)
        record = _loop(session, model, objective, rows, held_out, params, meter, title)
    _assert_live(model, probe, base_logits)
    return Trained(model, record)


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    """Turn running out of memory, on GPU or host, into a failure of this fit alone."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise FitError(f"out of memory ({(str(error).splitlines() or ['host'])[0]})") from None
    except RuntimeError as error:
        if "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise FitError(f"out of memory ({str(error).splitlines()[0]})") from None


def wrap(session: Session, config: PeftConfig) -> PeftModel:
    """Put a fresh adapter on the session's model; its random initialisation depends on the seed alone."""
    from peft import get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(session.seed)  # PEFT's own tuners initialise from the global generator
        model = get_peft_model(session.model, config)
    return model.eval()


def _loop(
    session: Session,
    model: PeftModel,
    objective: Objective,
    rows: list[Row],
    held_out: list[Row],
    params: TrainParams,
    meter: Meter,
    title: str,
) -> dict[str, Any]:
    trained = [p for p in model.parameters() if p.requires_grad]
    steps = params.epochs * math.ceil(len(rows) / params.batch_size)
    optimizer = torch.optim.AdamW(trained, lr=params.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=params.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    generator = torch.Generator().manual_seed(session.seed)
    losses: list[float] = []
    tokens = 0
    away = 0.0  # seconds spent on validation, which is not part of the cost of training

    def validate() -> float | None:
        nonlocal away
        before = meter.seconds()
        value = _mean_loss(model, objective, held_out, params.batch_size)
        away += meter.seconds() - before
        return value

    validation = [validate()]
    with track(title, steps, session.progress) as advance:
        for _ in range(params.epochs):
            for batch in batches(rows, params.batch_size, generator):
                loss = objective.loss(model, batch)
                if params.l1:
                    loss = loss + params.l1 * torch.stack([p.abs().sum() for p in trained]).sum()
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
            validation.append(validate())
    cost = meter.report()
    cost["seconds"] -= away
    return {
        "train_loss": losses,
        "validation_loss": validation,
        "steps": steps,
        "tokens_per_second": tokens / cost["seconds"],
        **cost,
    }


@torch.no_grad()
def _mean_loss(model: PeftModel, objective: Objective, rows: list[Row], size: int) -> float | None:
    """Mean of the objective over the held-out rows, each weighing the same; None without rows."""
    total = 0.0
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        total += objective.loss(model, part).item() * len(part)
    return total / len(rows) if rows else None


@torch.no_grad()
def _assert_live(model: PeftModel, probe: Any, base_logits: torch.Tensor) -> None:
    """The edit changes the outputs, and switched off it leaves them bit-identical."""
    if torch.equal(answer_logits(model, probe), base_logits):
        raise EditError(
            "the fitted edit has no effect on the model's output; its layers are not where they were looked for"
        )
    with model.disable_adapter():
        if not torch.equal(answer_logits(model, probe), base_logits):
            raise EditError("with the adapter switched off the model is not the unmodified one; the base was altered")
