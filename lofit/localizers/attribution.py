"""Rank heads by what moving them from wrong towards right answers would do to the loss, by the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit.localizers.localizer import Localizer, Scores
from lofit.spec.hyperparameters import LossParams

if TYPE_CHECKING:
    from lofit.training.context import FitContext


def score(context: FitContext, params: LossParams) -> Scores:
    """Score each head by the first-order fall of the training loss for an offset of its mean difference.

    The difference is that of the activations of right and wrong answers to the training questions, the direction along
    which ITI shifts a head; the gradient is that by v in z' = z + v, at every position.
    """
    import numpy as np

    from lofit.models.meter import Meter
    from lofit.training.gradients import head_gradients

    session = context.session
    meter = Meter(session.model.device)
    parts = list(head_gradients(session, params, params.batch_size, meter))
    gradient = sum(part.offset for part in parts) / sum(part.terms for part in parts)
    differences = context.activations.mean_differences(context.activations.heads)
    return Scores(-np.asarray(gradient * differences).sum(-1), meter.report())


LOCALIZER = Localizer(
    name="attribution",
    summary="gradient of the training loss times the mean difference of right and wrong answers",
    source="attribution patching, Syed et al. 2023 (arXiv 2310.10348), with the mean difference of the activations "
    "in the place of that of two runs",
    Params=LossParams,
    score=score,
    uses_activations=True,
)
