"""Low-rank edits of the residual stream after every layer, linear or not (arXiv 2603.00425)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lofit import interventions
from lofit.methods.method import Method, trains
from lofit.spec.hyperparameters import FitParams

if TYPE_CHECKING:
    from peft import PeftConfig

    from lofit.training.context import FitContext


class Params(FitParams):
    """Hyperparameters of post-block adapters."""

    rank: int = Field(default=8, ge=1)
    form: Literal["linear", "silu"] = Field(default="linear", description="linear: U W h + b; silu: U silu(W h)")


def adapter(params: Params, context: FitContext) -> PeftConfig:
    """Configure U, W and b in every layer."""
    return interventions.LoreftConfig(form=params.form, rank=params.rank, init_seed=context.seed)


METHOD = Method(
    name="post_block",
    summary="low-rank edits of the residual stream after every layer",
    source="Adila et al. 2026 (arXiv 2603.00425), post-block steering of rank 8; sprocketlab.github.io, 2025-11-26",
    Params=Params,
    learns="U, W and b in h' = h + U W h + b (form: silu: h + U silu(W h)) after every layer, by gradient",
    parameters="(2 r + 1) D per layer; 2 r D with silu",
    deviations="starts from the unedited model (U = 0); not the authors' code",
    foldable=False,
    fit=trains(adapter),
)
