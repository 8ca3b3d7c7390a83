"""RED: scale and bias of the feed-forward output of every layer (arXiv 2402.15179)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from lofit import interventions
from lofit.methods.method import Method, trains
from lofit.spec.hyperparameters import TrainParams

if TYPE_CHECKING:
    from typing import Self

    from peft import PeftConfig

    from lofit.training.context import FitContext


class Params(TrainParams):
    """Hyperparameters of RED and its two halves."""

    scale: bool = Field(default=True, description="learn the scaling vectors")
    bias: bool = Field(default=True, description="learn the bias vectors")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.scale or self.bias):
            raise ValueError("scale and bias are both off, so nothing would be learned; turn one of them on")
        return self


def adapter(params: Params, context: FitContext) -> PeftConfig:
    """Configure vectors 1 + s and b of the hidden size in every layer, starting from the unmodified model."""
    return interventions.LofitConfig(site="ffn", scale=params.scale, offset=params.bias, init_seed=context.seed)


METHOD = Method(
    name="red",
    summary="scaling and bias vectors on the feed-forward output of every layer",
    source="RED, Wu et al. 2024 (arXiv 2402.15179), section 3; reimplemented from the formula",
    Params=Params,
    learns="h' = (1 + s) h + b on the output of every feed-forward down projection, by gradient",
    parameters="2 L D (L D for scale or bias alone)",
    deviations="float32 vectors and 1 + s instead of s: in bfloat16 the published scaling never leaves 1",
    fit=trains(adapter),
)
