"""An offset on the residual stream after every layer (arXiv 2603.00425)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit import interventions
from lofit.methods.method import Method, trains
from lofit.spec.hyperparameters import FitParams

if TYPE_CHECKING:
    from peft import PeftConfig

    from lofit.training.context import FitContext


def adapter(params: FitParams, context: FitContext) -> PeftConfig:
    """Configure an offset, 0 at first, on the output of every layer."""
    return interventions.LofitConfig(site="block", scale=False, offset=True)


METHOD = Method(
    name="post_block_vector",
    summary="offsets on the residual stream after every layer",
    source="Adila et al. 2026 (arXiv 2603.00425): their counterpart of LoFiT, a fixed vector per layer",
    Params=FitParams,
    learns="v in h' = h + v on the output of every layer, by gradient",
    parameters="D per layer",
    deviations="not the authors' code",
    fit=trains(adapter),
)
