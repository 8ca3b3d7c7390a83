"""Rank heads by how steadily all texts ask for the same offset."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lofit import interventions
from lofit.localizers.localizer import Localizer, Scores
from lofit.spec.hyperparameters import LossParams

if TYPE_CHECKING:
    from lofit.training.context import FitContext


def score(context: FitContext, params: LossParams) -> Scores:
    """Score each head by the norm of its offset's mean gradient over the norm of that mean's standard error.

    The gradient is that of the training loss by v in z' = z + v, at v = 0, and the standard error is over texts. Both
    scale with the head's output projection, so that heads of different strength can be compared.
    """
    import numpy as np
    import torch
    from peft import get_peft_model

    from lofit.interventions.tuner.parameters import edited_layers
    from lofit.models.meter import Meter
    from lofit.training.trainer import Validation

    session = context.session
    rows = Validation(replace(session, validation=session.train), params)
    meter = Meter(session.model.device)
    model = get_peft_model(session.model, interventions.LofitConfig(scale=False, offset=True)).eval()
    forward = rows.forward(model)
    offsets = [next(iter(module.lofit_offset.values())) for _, module in edited_layers(model)]
    sums = [torch.zeros(2, *offset.shape, dtype=torch.float64) for offset in offsets]  # of gradients and their squares
    for row in rows.rows:
        model.zero_grad()
        rows.objective.total(forward, [row]).backward()
        for offset, found in zip(offsets, sums, strict=True):
            assert offset.grad is not None
            gradient = offset.grad.double().cpu()
            found += torch.stack([gradient, gradient.square()])
        meter.sample()
    values = np.zeros((context.n_layers, context.n_heads))
    for layer, (total, squares) in enumerate(sums):
        variance = (squares - total.square() / len(rows.rows)).sum(-1).clamp(min=torch.finfo(torch.float64).tiny)
        values[layer] = (total.norm(dim=-1) / variance.sqrt()).numpy()
    return Scores(values, meter.report())


LOCALIZER = Localizer(
    name="steady_offset",
    summary="norm of the mean gradient by an offset, over that of its standard error over texts; nothing is trained",
    source="this project",
    Params=LossParams,
    score=score,
)
