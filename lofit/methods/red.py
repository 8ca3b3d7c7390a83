"""RED on attention heads: scale and bias of the output of every head, as the LoFiT paper ran it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from lofit import interventions
from lofit.methods.method import Method, trains
from lofit.spec.hyperparameters import FitParams

if TYPE_CHECKING:
    from typing import Self

    from peft import PeftConfig

    from lofit.training.context import FitContext


class Params(FitParams):
    """Hyperparameters of RED and its two halves."""

    scale: bool = Field(default=True, description="learn the scaling vectors")
    bias: bool = Field(default=True, description="learn the bias vectors")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.scale or self.bias):
            raise ValueError("scale and bias are both off, so nothing would be learned; turn one of them on")
        return self


def adapter(params: Params, context: FitContext) -> PeftConfig:
    """Configure vectors 1 + s and b of the head dimension on every head, starting from the unmodified model."""
    return interventions.LofitConfig(scale=params.scale, offset=params.bias, init_seed=context.seed)


PRECISION = "float32 vectors and 1 + s instead of s: in bfloat16 the published scaling never leaves 1"

METHOD = Method(
    name="red",
    summary="scaling and bias vectors on every attention head",
    source="RED, Wu et al. 2024 (arXiv 2402.15179), section 3, at the place that LoFiT's Table 3 compares with",
    Params=Params,
    learns="z' = (1 + s) z + b on every head, by gradient",
    parameters="2 L H d (L H d for scale or bias alone)",
    deviations=f"RED's own repository edits the feed-forward output (red_ffn); {PRECISION}",
    fit=trains(adapter),
)
