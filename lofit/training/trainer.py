"""The training loop, shared by every trained method and localizer, and the loss by which all methods are tuned."""

from __future__ import annotations

import contextlib
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from lofit.errors import EditError, FitError, TaskError
from lofit.interventions.prompt import virtual_tokens
from lofit.models.encoding import Row, encode_rows
from lofit.models.meter import Meter
from lofit.packing.forward import answer_logits
from lofit.packing.rows import PAD, unpacked
from lofit.progress import track
from lofit.training.cached_prefix import GB
from lofit.training.compute_options import with_compute_options
from lofit.training.dropout import AdapterDropout
from lofit.training.forward import Forward
from lofit.training.master_weights import MasterWeights
from lofit.training.objectives import BipoObjective, DpoObjective, KlObjective, Objective, SftObjective
from lofit.training.savepoint import SavePoint, fingerprint

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

    from lofit.models.session import Session
    from lofit.spec.hyperparameters import FitParams, LossParams, TrainParams


@dataclass(frozen=True)
class Penalty:
    """A term that a method adds to the training loss.

    Attributes:
        value: called with the number of the step, from 0; returns a scalar with gradient.
        draw: called before every step; draws its random numbers, which are the same in all passes of the step.
        generator: the random generator of ``draw``.
    """

    value: Callable[[int], torch.Tensor]
    draw: Callable[[], None]
    generator: torch.Generator


@dataclass(frozen=True)
class Fitted:
    """A fitted model with the record of the fit.

    Attributes:
        model: the PEFT model with its adapter active, or the transformers model itself if all its weights are trained;
            in evaluation mode.
        record: what goes into ``fit.json``, such as losses, seconds without evaluation, and memory.
    """

    model: Any
    record: dict[str, Any]


class Kept:
    """The trained values of the best epoch so far.

    Attributes:
        values: on the CPU, in the optimizer's order; empty before the end of the first epoch.
    """

    def __init__(self) -> None:
        self.values: list[torch.Tensor] = []

    @staticmethod
    def epoch(state: dict[str, Any]) -> int:
        """Return the best epoch, from 1; 0 before the end of the first.

        Args:
            state: lists ``validation_loss`` and, if it is computed, ``validation_metric``; their first value is of the
                model before training.
        """
        losses = state["validation_loss"]
        metrics = state.get("validation_metric", [0.0] * len(losses))
        return max(range(1, len(losses)), key=lambda at: (metrics[at], -losses[at]), default=0)


def make_objective(session: Session, params: LossParams) -> Objective:
    """Create the objective of the session's task."""
    if session.objective == "kl":
        assert session.planted, "only a damaged model has an intact one to be compared with"
        return KlObjective(session.planted)
    if session.objective == "sft":
        return SftObjective()
    return (BipoObjective if session.objective == "bipo" else DpoObjective)(params.beta)


class Validation:
    """What is measured on validation rows: the objective's mean loss per answer token or, for DPO, preference pair.

    Unlike the training loss, it leaves out the end-of-sequence that follows an answer. That token measures ending, not
    answering: training teaches it, and a fixed shift cannot. All that is chosen by a loss is chosen by this one.

    Create it while the session's model is unmodified, since DPO uses that model as its reference.

    Raises:
        EditError: the model already has an adapter.
    """

    def __init__(self, session: Session, params: LossParams) -> None:
        if any(isinstance(module, BaseTunerLayer) for module in session.model.modules()):
            raise EditError("the session's model already has an adapter; open a new session, or unload the adapter")
        self.objective = make_objective(session, params)
        encoded = encode_rows(
            session.tokenizer,
            session.validation,
            session.objective,
            params.max_length,
            session.window,
            session.vocabulary,
        )
        self.rows: list[Row] = [tuple(text.without_end for text in row) for row in encoded]
        self.batch_size = params.batch_size
        self._metric, self._tokenizer = session.metric, session.tokenizer
        self.objective.prepare(self.forward(session.model), self.rows, self.batch_size)

    def forward(self, model: nn.Module, others: Sequence[Row] = ()) -> Forward:
        """Create the forward pass of a model on the validation rows and, if given, on other rows."""
        return Forward(model, [*self.rows, *others], PAD)

    def loss(self, forward: Forward) -> float | None:
        """Compute the mean loss of a model; None without validation rows.

        Raises:
            FitError: the loss is not finite.
        """
        return self._means(forward)["loss"]

    def measure(self, forward: Forward, scored: bool = True) -> dict[str, float | None]:
        """Compute all that is measured.

        Args:
            forward: the forward pass.
            scored: whether to compute the metric, if the session has one.

        Returns:
            ``loss`` (None without validation rows); ``preference_accuracy`` (DPO), the share of pairs whose chosen
            answer has the higher implicit reward; ``metric``, if the session has one, or None instead.

        Raises:
            FitError: the loss or a prediction is not finite.
        """
        found = self._means(forward)
        if self._metric and self.rows:
            found["metric"] = self._metric(forward.model, self._tokenizer) if scored else None
        return found

    @torch.no_grad()
    def _means(self, forward: Forward) -> dict[str, float | None]:
        if not self.rows:
            return {"loss": None}
        parts = (self.rows[start : start + self.batch_size] for start in range(0, len(self.rows), self.batch_size))
        sums: Counter[str] = Counter()
        for part in parts:
            sums.update({name: float(value) for name, value in self.objective.measures(forward, part).items()})
        if not math.isfinite(sums["loss"]):
            raise FitError(f"validation loss is {sums['loss']}; the edit is too large, lower the learning rate")
        return {name: total / self.objective.terms(self.rows) for name, total in sums.items()}


def batches(rows: Sequence[Row], size: int, generator: torch.Generator) -> list[list[Row]]:
    """Draw the batches of one epoch: the rows in random order, ``size`` at a time; one batch may be smaller.

    The batch with most tokens comes first, so that running out of memory shows at once.
    """
    order = torch.randperm(len(rows), generator=generator).tolist()
    drawn = [[rows[i] for i in order[start : start + size]] for start in range(0, len(order), size)]
    largest = max(range(len(drawn)), key=lambda i: sum(len(text.ids) for row in drawn[i] for text in row))
    return [drawn.pop(largest), *drawn]


def train(
    session: Session,
    config: PeftConfig | None,
    params: TrainParams | FitParams,
    title: str,
    begin: Callable[[PeftModel], Penalty | None] | None = None,
) -> Fitted:
    """Fit an adapter, or all weights of the model, on the session's training rows.

    The session's model is modified and cannot be fitted again. The optimizer is AdamW with linear decay to zero and
    gradient-norm clipping. The L1 penalty is the *sum* of absolute values over all trained parameters (fc2869/lo-fit,
    utils/trainers.py) and is part of the training loss only. The trained values of the last epoch are kept, or with
    ``keep: best`` those of the epoch with the highest validation metric; where epochs are equal, or the session has no
    metric, of the one with the lowest validation loss, the first of several. The base model's dropout is off, and that
    of the adapter is on in training steps. With ``session.save_to``, training resumes from a save point that a killed
    fit left there.

    Args:
        session: model, tokenizer and rows.
        config: the adapter to train; None trains the model itself.
        params: hyperparameters.
        title: title of the progress bar.
        begin: called once with the fresh adapter model, whose values it may set; the value of the penalty that it
            returns, if any, is added to the loss of every step.

    Raises:
        TaskError: there are no training rows, or a row lacks a training field.
        FitError: a row cannot be encoded, a loss, a gradient or a trained value is not finite, or the best epoch is to
            be kept and there are no validation rows.
        EditError: the edit has no effect, the disabled adapter is not the unmodified model, or the session was used
            before.
    """
    validation = Validation(session, params)
    rows = encode_rows(
        session.tokenizer, session.train, session.objective, params.max_length, session.window, session.vocabulary
    )
    if not rows:
        raise TaskError("there are no training rows; raise n_train")
    if session.planted:
        rows = [tuple(text.without_end for text in row) for row in rows]
    keeps_best = getattr(params, "keep", "last") == "best"
    if keeps_best and not validation.rows:
        raise FitError("the best epoch is found on validation rows and there are none; raise n_validation")
    effect = EffectCheck(session, rows[0])
    meter = Meter(session.model.device)
    validation.objective.prepare(validation.forward(session.model, rows), rows, params.batch_size)
    model = wrap(session, config) if config else session.model.requires_grad_(True)
    forward = validation.forward(model, rows)
    compute = session.compute
    memory, disk = compute.prefix_memory_gb * GB, compute.prefix_disk_gb * GB
    forward.keep_prefix([*rows, *validation.rows], params.batch_size, memory, disk)
    extra = begin(model) if begin else None  # type: ignore[arg-type]
    with with_compute_options(model, compute):
        texts = [[text.ids for text in row] for row in [*rows, *validation.rows]]
        start = fingerprint(effect.base, texts, session.metric is None)
        save_point = SavePoint(session.save_to, start, compute.save_minutes)
        kept = Kept() if keeps_best else None
        record = _loop(session, forward, rows, validation, params, meter, title, extra, save_point, kept)
    record["trained_params"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if config is None:  # torch rounds differently if weights are not frozen, and they were for the unmodified outputs
        model.requires_grad_(False)
    effect.check(model)
    return Fitted(model, record)


def wrap(session: Session, config: PeftConfig) -> PeftModel:
    """Add a fresh adapter to the session's model; its random initialization depends on the seed alone.

    Raises:
        EditError: the method does not work with models of this family.
    """
    from peft import get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(session.seed)  # PEFT's own tuners initialize from the global generator
        try:
            model = get_peft_model(session.model, config)
        except EditError:
            raise
        except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
            family = type(session.model).__name__
            raise EditError(f"{type(config).__name__} does not fit {family}: {error}") from None
    model.eval()
    if virtual_tokens(model):
        model.prompt_encoder.train()  # an LSTM on a GPU has a gradient in this mode alone; there is no dropout
    return model


def _loop(
    session: Session,
    forward: Forward,
    rows: list[Row],
    validation: Validation,
    params: TrainParams,
    meter: Meter,
    title: str,
    penalty: Penalty | None,
    save_point: SavePoint,
    kept: Kept | None,
) -> dict[str, Any]:
    trained = MasterWeights([p for p in forward.model.parameters() if p.requires_grad])
    objective, part_size = validation.objective, session.compute.micro_batch or params.batch_size
    steps = params.epochs * math.ceil(len(rows) / params.batch_size)
    optimizer = torch.optim.AdamW(
        trained.masters, lr=params.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=params.weight_decay
    )
    device = session.model.device
    warmup = round(params.warmup * steps)
    order = torch.Generator().manual_seed(session.seed)
    drawn = penalty.generator if penalty else None
    dropout = AdapterDropout(forward.model, session.seed, device)
    state: dict[str, Any] = {
        "train_loss": [],
        "validation_loss": [],  # and other lists of what validation measures, as long as this one
        "tokens": 0,
        "seconds": 0.0,
        "deterministic": True,
    }
    losses: list[float] = state["train_loss"]
    excluded = 0.0  # seconds spent on validation and on saving, which are not part of the cost of training

    every_epoch = kept is not None or session.compute.validate_by == "metric"

    def validate() -> None:
        nonlocal excluded
        before = meter.seconds()
        scored = every_epoch or len(state["validation_loss"]) == params.epochs
        for name, value in validation.measure(forward, scored).items():
            state.setdefault(f"validation_{name}", []).append(value)
        if kept is not None and kept.epoch(state) == len(state["validation_loss"]) - 1 > 0:
            kept.values = [p.detach().cpu().clone() for p in trained.masters]
        excluded += meter.seconds() - before
        meter.forget()

    def save() -> None:
        nonlocal excluded
        before = meter.seconds()
        record = state | {"seconds": state["seconds"] + before - excluded}
        save_point.save(trained.masters, optimizer, drawn, record, kept.values if kept else [])
        excluded += meter.seconds() - before

    if found := save_point.load(trained.masters, optimizer, drawn, kept.values if kept else []):
        trained.round()
        state.update(found)
        losses = state["train_loss"]
        print(f"{title}: going on from step {len(losses)} of {steps}", file=sys.stderr, flush=True)
    else:
        validate()
    done = len(losses)
    optimizer.param_groups[0]["initial_lr"] = params.lr
    schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps, warmup), last_epoch=done - 1)
    with track(title, steps, session.progress, done) as advance:
        for epoch in range(params.epochs):
            for number, batch in enumerate(batches(rows, params.batch_size, order)):
                step = epoch * steps // params.epochs + number
                if step < done:
                    continue
                if penalty:
                    penalty.draw()

                def gradient(batch: list[Row] = batch, step: int = step) -> torch.Tensor:
                    """Compute the loss of the step, and its gradient at the trained values."""
                    trained.clear()
                    count, loss = objective.terms(batch), torch.zeros((), dtype=torch.float64, device=device)
                    with dropout.on(step):
                        for start in range(0, len(batch), part_size):
                            part = objective.total(forward, batch[start : start + part_size]) / count
                            part.backward()
                            loss += part.detach()
                    if params.l1 or penalty:
                        rest = params.l1 * torch.stack([p.abs().sum().to(device) for p in trained.values]).sum()
                        if penalty:
                            rest = rest + penalty.value(step)
                        rest.backward()
                        loss += rest.detach()
                    return loss

                try:
                    with only_deterministic(state["deterministic"]):
                        total = gradient()
                except RuntimeError as error:
                    if not state["deterministic"] or "deterministic" not in str(error):
                        raise
                    state["deterministic"] = False  # an operation of this family is not deterministic on this device
                    total = gradient()
                length = torch.nn.utils.clip_grad_norm_(trained.collect(), params.max_grad_norm)
                # The one wait for the GPU in each step.
                loss, norm = torch.stack([total, length.to(device, torch.float64)]).tolist()
                losses.append(loss)
                if not math.isfinite(loss):
                    raise FitError(f"loss is {loss} at step {len(losses)} of {steps}; lower the learning rate")
                if not math.isfinite(norm):
                    raise FitError(
                        f"norm of the gradient is {norm} at step {len(losses)} of {steps}; lower the learning rate"
                    )
                _step(optimizer, f"step {len(losses)} of {steps}")
                schedule.step()
                trained.round()
                meter.sample()
                state["tokens"] += sum(len(example.ids) - 1 for row in batch for example in row)
                advance(f"loss {losses[-1]:.3f}")
                if save_point.due:
                    save()
            if len(state["validation_loss"]) <= epoch + 1:
                validate()
    if kept is not None:
        with torch.no_grad():
            for master, value in zip(trained.masters, kept.values, strict=True):
                master.copy_(value)
        trained.round()
    if not all(p.isfinite().all() for p in trained.values):
        raise FitError(f"a trained value is not finite after {steps} steps; lower the learning rate")
    cost = meter.report()
    cost["seconds"] += state["seconds"] - excluded
    return {
        "train_loss": losses,
        **{name: values for name, values in state.items() if name.startswith("validation_")},
        "kept_epoch": kept.epoch(state) if kept else params.epochs,
        "steps": steps,
        "tokens_per_second": state["tokens"] / cost["seconds"],
        "deterministic": state["deterministic"],
        **cost,
    }


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


def _step(optimizer: torch.optim.Optimizer, name: str) -> None:
    try:
        optimizer.step()
    except RuntimeError as error:  # the learning rate over the bias correction is too large for float32
        if "without overflow" not in str(error):
            raise
        raise FitError(f"an update of the weights overflows at {name}; lower the learning rate") from None


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak learning rate at ``step``: up over ``warmup`` steps, then down to 0, both linear."""
    return step / warmup if step < warmup else (steps - step) / max(1, steps - warmup)


class EffectCheck:
    """Checks on one text that an edit changes the model's outputs, and that disabling the adapter restores them.

    Create it while the session's model is unmodified.
    """

    def __init__(self, session: Session, row: Row) -> None:
        self._probe = unpacked([row[0]], pad_id=row[0].ids[0], device=session.model.device)
        self.base = self._logits(session.model)

    @torch.no_grad()
    def _logits(self, model: nn.Module) -> torch.Tensor:
        return answer_logits(model, self._probe)

    def check(self, model: Any) -> None:
        """Check a fitted model, either a PEFT model or the trained model itself.

        Raises:
            EditError: the outputs are those of the unmodified model, or disabling the adapter does not restore them.
        """
        if torch.equal(self._logits(model), self.base):
            raise EditError(
                "the fitted edit has no effect on the model's output: its layers are not where they were looked for, "
                f"or it is smaller than what {str(self.base.dtype).removeprefix('torch.')} can tell"
            )
        if hasattr(model, "disable_adapter"):
            with model.disable_adapter():
                if not torch.equal(self._logits(model), self.base):
                    raise EditError("with the adapter switched off the model is not the unmodified one")
