"""Full fine-tuning: every weight of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit.methods.method import Method
from lofit.spec.hyperparameters import FitParams

if TYPE_CHECKING:
    from lofit.training.context import FitContext
    from lofit.training.trainer import Fitted


def fit(context: FitContext, params: FitParams) -> Fitted:
    """Train the model itself; the optimizer holds float32 copies of weights in a lower precision."""
    from lofit.training.trainer import train

    return train(context.session, None, params, context.title)


METHOD = Method(
    name="full",
    summary="full fine-tuning of all weights",
    source="reference point of the average difference to full fine-tuning",
    Params=FitParams,
    learns="every weight, by gradient",
    parameters="all weights of the model",
    deviations="gradients are in the precision of the base, weights in bfloat16 are updated as float32 copies",
    trains_base=True,
    fit=fit,
)
