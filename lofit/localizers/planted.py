"""The truth about planted heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit.localizers.localizer import Localizer, Scores
from lofit.spec.hyperparameters import NoParams

if TYPE_CHECKING:
    from lofit.training.context import FitContext


def score(context: FitContext, params: NoParams) -> Scores:
    """Score planted heads 1 and all others 0."""
    import numpy as np

    values = np.zeros((context.n_layers, context.n_heads))
    planted = context.session.planted
    assert planted, "the configuration admits this localizer for planted heads alone"
    for head in planted.damage.heads:
        values[head] = 1
    return Scores(values, {"seconds": 0.0})


LOCALIZER = Localizer(
    name="planted",
    summary="planted heads only: the planted heads first",
    source="this project",
    Params=NoParams,
    score=score,
    planted_only=True,
)
