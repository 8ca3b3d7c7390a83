"""LoFiT, step V: offset vectors on the selected heads (arXiv 2406.01563, section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lofit import interventions
from lofit.methods.method import Method, trains
from lofit.spec.hyperparameters import FitParams

if TYPE_CHECKING:
    from peft import PeftConfig

    from lofit.training.context import FitContext


class Params(FitParams):
    """Hyperparameters of step V."""

    init_std: float = Field(default=1e-3, ge=0, description="standard deviation of the initial offsets")


def adapter(params: Params, context: FitContext) -> PeftConfig:
    """Configure offsets v of shape [head dim] on each selected head; the scaling factors of step A are discarded."""
    (k,) = context.k
    return interventions.LofitConfig(
        heads=context.heads(k), scale=False, offset=True, init_std=params.init_std, init_seed=context.seed
    )


METHOD = Method(
    name="lofit",
    summary="offset vectors on the top-K heads of a localizer",
    source="LoFiT (arXiv 2406.01563), section 3; fc2869/lo-fit",
    Params=Params,
    learns="an offset v on each of K heads, by gradient",
    parameters="K d",
    deviations="the DPO reference is the unmodified model; answers are not glued to the prompt",
    localizer="lofit",
    fit=trains(adapter),
)
