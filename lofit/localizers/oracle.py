"""The ceiling on planted heads: every head is restored exactly, one at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lofit.localizers.localizer import Localizer, Scores
from lofit.spec.hyperparameters import LossParams

if TYPE_CHECKING:
    from lofit.training.context import FitContext


def score(context: FitContext, params: LossParams) -> Scores:
    """Score each head by the decrease of the training rows' loss when it alone is restored.

    It is 0, without computing anything, at heads that are not damaged.
    """
    import numpy as np

    from lofit.models.damage import damaged
    from lofit.models.meter import Meter
    from lofit.training.trainer import Validation

    session = context.session
    planted, model = session.planted, session.model
    assert planted, "the configuration admits this localizer for planted heads alone"
    meter = Meter(model.device)
    rows = Validation(replace(session, validation=session.train), params)
    forward = rows.forward(model)
    before = rows.loss(forward)
    values = np.zeros((context.n_layers, context.n_heads))
    for head in planted.damage.heads:
        rest = planted.damage.at([other for other in planted.damage.heads if other != head])
        with planted.undone(), damaged(model, rest):
            after = rows.loss(forward)
        assert before is not None and after is not None
        values[head] = before - after
    return Scores(values, meter.report())


LOCALIZER = Localizer(
    name="oracle",
    summary="planted heads only: decrease of the loss when a head is restored exactly",
    source="this project",
    Params=LossParams,
    score=score,
    planted_only=True,
)
