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
from lofit.training.context import FitContext
from lofit.training.loop import preference
from lofit.training.trainer import EffectCheck, Fitted, Validation, wrap

Edit = tuple[LofitConfig, dict[tuple[int, int], np.ndarray]]
"""Configuration of an adapter with scaling factors or offsets, and the vectors to put into it by (layer, head) or
(layer, 0)."""


def choose(
    context: FitContext, params: LossParams, grid: Mapping[str, Sequence[Any]], edit: Callable[..., Edit]
) -> Fitted:
    """Try every point of a grid and keep the best on validation, the first one if there is a tie.

    ``context.select_by`` decides as in a search among trained fits: the highest headline metric, with ties by the
    lowest loss; or the lowest loss alone. An edit of zeros is the unmodified model and a result like any other; it is
    not checked for an effect.

    Args:
        context: the inputs of the fit; the session's model is modified and cannot be fitted again.
        params: how the loss is computed.
        grid: values to try, by name of the hyperparameter.
        edit: called with one value for each name; returns the edit to try.

    Returns:
        The fitted model. Its record has ``grid`` (each point with ``validation_loss``, None if that is not finite, and
        what else validation measures), ``chosen``, and what validation measures before and after. What computing the
        metric takes is no part of ``seconds``, as in training.

    Raises:
        FitError: there are no validation rows, or no point has a finite loss.
    """
    session = context.session
    meter, excluded = Meter(session.model.device), 0.0
    validation = Validation(session, params)
    if not validation.rows:
        raise FitError("the strength of the edit is chosen on validation rows and there are none; raise n_validation")
    effect = EffectCheck(session, validation.rows[0])

    def measured(model: Any) -> dict[str, float | None]:
        nonlocal excluded
        forward = validation.forward(model)
        found = validation.measure(forward, scored=False)
        meter.sample()
        if session.metric:
            started = meter.seconds()
            found["metric"] = validation.metric(forward)
            excluded += meter.seconds() - started
            meter.forget()
        return {f"validation_{name}": value for name, value in found.items()}

    before = measured(session.model)
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    tried: list[dict[str, Any]] = []
    with track(context.title, len(points), session.progress) as advance:
        for point in points:
            model, changes = _edited(session, edit(**point))
            try:
                found = measured(model) if changes else before
            except FitError:
                found = {"validation_loss": None}
            model.unload()
            tried.append(point | found)
            loss = found["validation_loss"]
            advance("" if loss is None else f"validation loss {loss:.3f}")
    finite = [entry for entry in tried if entry["validation_loss"] is not None]
    if not finite:
        raise FitError("no strength of the edit gives a finite validation loss; lower the values of the grid")
    best = min(finite, key=lambda entry: preference(entry, context.select_by))
    chosen = {name: best[name] for name in grid}
    model, changes = _edited(session, edit(**chosen))
    if changes:
        effect.check(model)
    model.requires_grad_(False)  # PEFT turns gradients on when a disabled adapter is enabled again
    record = {"grid": tried, "chosen": chosen} | meter.report()
    record["seconds"] -= excluded
    return Fitted(model, record | {name: [value, best[name]] for name, value in before.items()})


def _edited(session: Session, edit: Edit) -> tuple[Any, bool]:
    """Return the session's model with an edit, and whether that changes anything."""
    config, vectors = edit
    model = wrap(session, config)
    set_vectors(model, vectors, "scale" if config.scale else "offset")
    return model, any(np.any(vector) for vector in vectors.values())
