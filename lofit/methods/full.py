"""Full fine-tuning: every weight of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit.fit.params import TrainParams
from lofit.methods.spec import Method

if TYPE_CHECKING:
    from lofit.fit.trainer import Fitted
    from lofit.fit.workbench import Workbench


def fit(bench: Workbench, params: TrainParams) -> Fitted:
    """Train the model itself; the optimizer holds float32 copies of weights in a lower precision."""
    from lofit.fit.trainer import train

    return train(bench.session, None, params, bench.title)


METHOD = Method(
    name="full",
    summary="full fine-tuning of all weights",
    source="reference point of the average difference to full fine-tuning",
    Params=TrainParams,
    learns="every weight, by gradient",
    parameters="all weights of the model",
    deviations="gradients are in the precision of the base, weights in bfloat16 are updated as float32 copies",
    fit=fit,
)
