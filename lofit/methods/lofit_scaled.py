"""LoFiT with scaling factors in step V too: an ablation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit import interventions
from lofit.methods.lofit import Params
from lofit.methods.method import Method, trains

if TYPE_CHECKING:
    from peft import PeftConfig

    from lofit.training.context import FitContext


def adapter(params: Params, context: FitContext) -> PeftConfig:
    """Configure scaling factors a and offsets v, both of shape [head dim], on each selected head."""
    (k,) = context.k
    return interventions.LofitConfig(
        heads=context.heads(k), scale=True, offset=True, init_std=params.init_std, init_seed=context.seed
    )


METHOD = Method(
    name="lofit_scaled",
    summary="scaling factors and offset vectors, trained together on the top-K heads of a localizer",
    source="LoFiT (arXiv 2406.01563), section 3, without discarding the scaling factors in its second step",
    Params=Params,
    learns="z' = (1 + a) z + v on each of K heads, by gradient",
    parameters="2 K d",
    deviations="a starts anew in step V, it is not taken over from step A",
    localizer="lofit",
    fit=trains(adapter),
)
