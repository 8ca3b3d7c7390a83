"""LoReFT: low-rank edits of the residual stream at the ends of the prompt (arXiv 2404.03592)."""

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
    """Hyperparameters of LoReFT."""

    rank: int = Field(default=8, ge=1)
    layers: tuple[int, ...] | None = Field(default=None, min_length=1, description="decoder layers, from 0; null: all")
    prefix: int = Field(default=7, ge=0, description="first prompt tokens edited, at most half of the prompt")
    suffix: int = Field(default=7, ge=0, description="last prompt tokens edited, at most half of the prompt")
    share: bool = Field(default=True, description="one edit for first and last tokens")


def adapter(params: Params, context: FitContext) -> PeftConfig:
    """Configure R, W and b in every chosen layer."""
    return interventions.LoreftConfig(
        rank=params.rank,
        layers=None if params.layers is None else list(params.layers),
        prefix=params.prefix,
        suffix=params.suffix,
        share=params.share,
        init_seed=context.seed,
    )


METHOD = Method(
    name="loreft",
    summary="low-rank edits of the residual stream at the first and last prompt tokens",
    source="LoReFT, Wu et al. 2024 (arXiv 2404.03592), section 3.2; recipe of stanfordnlp/pyreft for 7B models",
    Params=Params,
    learns="R (orthonormal rows), W and b in h' = h + R^T (W h + b - R h) on the output of every chosen layer, by "
    "gradient",
    parameters="(2 r D + r) per layer, twice that if share is off",
    deviations="R by Gram-Schmidt (QR) instead of a Householder product; no dropout; reimplemented, "
    "since pyreft 0.1.0 requires transformers 4.45.1",
    foldable=False,
    fit=trains(adapter),
)
