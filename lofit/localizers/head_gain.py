"""Rank heads by how strongly the loss asks for more, or for less, of a head as a whole."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lofit.localizers.localizer import Localizer, Scores
from lofit.spec.hyperparameters import LossParams

if TYPE_CHECKING:
    from lofit.training.context import FitContext


def score(context: FitContext, params: LossParams) -> Scores:
    """Score each head by the absolute derivative of the training loss by its gain g in z' = g z, at g = 1.

    It is the sum of the gradient with respect to LoFiT's scaling factors, of which LoFiT trains all and takes the norm:
    parts of a head that ask for opposite changes cancel, and nothing is trained. Michel et al. 2019 (arXiv 1905.10650,
    eq. 2) take the mean of the absolute derivatives of single texts instead.
    """
    import numpy as np
    from peft import get_peft_model

    from lofit.interventions import LofitConfig
    from lofit.interventions.tuner.parameters import edited_layers
    from lofit.models.meter import Meter
    from lofit.training.trainer import Validation

    session = context.session
    rows = Validation(replace(session, validation=session.train), params)
    meter = Meter(session.model.device)
    model = get_peft_model(session.model, LofitConfig()).eval()
    forward = rows.forward(model)
    for start in range(0, len(rows.rows), params.batch_size):
        rows.objective.total(forward, rows.rows[start : start + params.batch_size]).backward()
        meter.sample()
    values = np.zeros((context.n_layers, context.n_heads))
    for layer, module in edited_layers(model):
        [factors] = module.lofit_scale.values()
        values[layer] = factors.grad.double().sum(-1).abs().cpu().numpy() / rows.objective.terms(rows.rows)
    return Scores(values, meter.report())


LOCALIZER = Localizer(
    name="head_gain",
    summary="absolute derivative of the training loss by one factor for the head's whole output; nothing is trained",
    source="this project; the derivative is that of Michel et al. 2019 (arXiv 1905.10650), section 2.2",
    Params=LossParams,
    score=score,
)
