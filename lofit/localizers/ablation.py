"""Rank heads by how much the loss changes without them: exactly, or by the gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from lofit.localizers.localizer import Localizer, Scores
from lofit.spec.hyperparameters import LossParams

if TYPE_CHECKING:
    from lofit.training.context import FitContext


class Params(LossParams):
    """Hyperparameters of ablation."""

    exact: bool = Field(
        default=False, description="take every head away in turn, in as many passes; false: estimate it from one pass"
    )


def score(context: FitContext, params: Params) -> Scores:
    """Score each head by how much the training loss changes, either way, when its output is 0 at every position.

    The estimate is of first order: with z' = (1 + a) z, taking the head away is a = -1 in all its dimensions, so the
    loss L changes by about -sum_i dL/da_i. A head that is too loud is one whose loss falls without it.
    """
    import numpy as np
    import torch

    from lofit.interventions import find_site
    from lofit.models.damage import Damage, damaged
    from lofit.models.meter import Meter
    from lofit.training.gradients import head_gradients
    from lofit.training.trainer import Validation

    session = context.session
    meter = Meter(session.model.device)
    if not params.exact:
        parts = list(head_gradients(session, params, params.batch_size, meter))
        change = sum(part.scale.sum(-1) for part in parts) / sum(part.terms for part in parts)
        return Scores(np.abs(change), meter.report())
    rows = Validation(replace(session, validation=session.train), params)
    forward, width = rows.forward(session.model), find_site(session.model).width
    before = rows.loss(forward)
    values = np.zeros((context.n_layers, context.n_heads))
    for head in np.ndindex(values.shape):
        with damaged(session.model, Damage((head,), torch.zeros(1), torch.zeros(1, width))):
            after = rows.loss(forward)
        assert before is not None and after is not None
        values[head] = abs(after - before)
        meter.sample()
    return Scores(values, meter.report())


LOCALIZER = Localizer(
    name="ablation",
    summary="change of the training loss when a head's output is 0; by default its first-order estimate",
    source="Michel et al. 2019 (arXiv 1905.10650), section 4.1, over the rows' mean loss instead of each row's",
    Params=Params,
    score=score,
)
