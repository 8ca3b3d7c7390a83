"""Training, shared by every trained method and localizer, and the loss by which all methods are tuned."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from lofit.errors import EditError, FitError, TaskError
from lofit.interventions.prompt import virtual_tokens
from lofit.models.encoding import Row, encode_rows
from lofit.models.meter import Meter
from lofit.packing.forward import answer_logits
from lofit.packing.rows import PAD, unpacked
from lofit.training.cached_prefix import GB
from lofit.training.compute_options import with_compute_options
from lofit.training.forward import Forward
from lofit.training.loop import Loop
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
        self.objective.prepare(session.model, self.rows, self.batch_size)

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
            found["metric"] = self.metric(forward) if scored else None
        return found

    def metric(self, forward: Forward) -> float | None:
        """Compute the metric of a model; None if the session has none."""
        if not self._metric:
            return None
        found = self._metric(forward.model, self._tokenizer)
        _ready(forward.model)  # lm-eval has put all of it into evaluation mode
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
    validation.objective.prepare(session.model, rows, params.batch_size)
    model = wrap(session, config) if config else session.model.requires_grad_(True)
    forward = validation.forward(model, rows)
    compute = session.compute
    memory, disk = compute.prefix_memory_gb * GB, compute.prefix_disk_gb * GB
    forward.keep_prefix([*rows, *validation.rows], params.batch_size, memory, disk)
    extra = begin(model) if begin else None  # type: ignore[arg-type]
    with with_compute_options(model, compute):
        texts = [[text.ids for text in row] for row in [*rows, *validation.rows]]
        edit = config.to_dict() if config else None
        start = fingerprint(effect.base, texts, session.metric is None, params, edit)
        save_point = SavePoint(session.save_to, start, compute.save_minutes)
        loop = Loop(session, forward, rows, validation, params, meter, extra, save_point, keeps_best)
        record = loop.run(title, session.progress)
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
    _ready(model)
    return model


def _ready(model: Any) -> None:
    """Put an encoder of virtual tokens into training mode: an LSTM on a GPU has a gradient in it only. No dropout."""
    if virtual_tokens(model):
        model.prompt_encoder.train()


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
