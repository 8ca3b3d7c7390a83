"""Choose the hyperparameters of an estimated edit on validation: the same rule for all of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lofit.errors import FitError
from lofit.interventions import LofitConfig, set_vectors
from lofit.models.meter import Meter
from lofit.models.session import Session
from lofit.progress import track
from lofit.spec.hyperparameters import LossParams
from lofit.training.trainer import EffectCheck, Fitted, Validation, wrap

Edit = tuple[LofitConfig, dict[tuple[int, int], np.ndarray]]
"""Configuration of an adapter with scaling factors or offsets, and the vectors to put into it by (layer, head) or
(layer, 0)."""


def choose(
    session: Session,
    params: LossParams,
    grid: Mapping[str, Sequence[Any]],
    edit: Callable[..., Edit],
    title: str,
) -> Fitted:
    """Try every point of a grid and keep the one with the lowest validation loss, the first one if there is a tie.

    The loss is the only criterion, also where ``select_by`` has trained methods chosen by the metric. An edit of zeros
    is the unmodified model and a result like any other; it is not checked for an effect.

    Args:
        session: model and rows; the model is modified and cannot be fitted again.
        params: how the loss is computed.
        grid: values to try, by name of the hyperparameter.
        edit: called with one value for each name; returns the edit to try.
        title: title of the progress bar.

    Returns:
        The fitted model. Its record has ``grid`` (each point with its ``validation_loss``), ``chosen``, and what
        validation measures (``validation_loss`` and others), before and after.

    Raises:
        FitError: there are no validation rows, or no point has a finite loss.
    """
    meter = Meter(session.model.device)
    validation = Validation(session, params)
    if not validation.rows:
        raise FitError("the strength of the edit is chosen on validation rows and there are none; raise n_validation")
    effect = EffectCheck(session, validation.rows[0])
    before = validation.measure(validation.forward(session.model))
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    tried: list[dict[str, Any]] = []
    with track(title, len(points), session.progress) as advance:
        for point in points:
            model, _ = _edited(session, edit(**point))
            try:
                loss = validation.loss(validation.forward(model))
            except FitError:
                loss = None
            model.unload()
            tried.append(point | {"validation_loss": loss})
            meter.sample()
            advance("" if loss is None else f"validation loss {loss:.3f}")
    finite = [entry for entry in tried if entry["validation_loss"] is not None]
    if not finite:
        raise FitError("no strength of the edit gives a finite validation loss; lower the values of the grid")
    best = min(finite, key=lambda entry: entry["validation_loss"])
    chosen = {name: best[name] for name in grid}
    model, changes = _edited(session, edit(**chosen))
    if changes:
        effect.check(model)
    model.requires_grad_(False)  # PEFT turns gradients on when a disabled adapter is enabled again
    record = {"grid": tried, "chosen": chosen} | meter.report()
    after = validation.measure(validation.forward(model))
    return Fitted(model, record | {f"validation_{name}": [value, after[name]] for name, value in before.items()})


def _edited(session: Session, edit: Edit) -> tuple[Any, bool]:
    """Return the session's model with an edit, and whether that changes anything."""
    config, vectors = edit
    model = wrap(session, config)
    set_vectors(model, vectors, "scale" if config.scale else "offset")
    return model, any(np.any(vector) for vector in vectors.values())
