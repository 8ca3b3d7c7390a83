"""RED on feed-forward networks: scale and bias of the output of every layer's (arXiv 2402.15179)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit import interventions
from lofit.methods.method import Method, trains
from lofit.methods.red import PRECISION, Params

if TYPE_CHECKING:
    from peft import PeftConfig

    from lofit.training.context import FitContext


def adapter(params: Params, context: FitContext) -> PeftConfig:
    """Configure vectors 1 + s and b of the hidden size in every layer, starting from the unmodified model."""
    return interventions.LofitConfig(site="ffn", scale=params.scale, offset=params.bias, init_seed=context.seed)


METHOD = Method(
    name="red_ffn",
    summary="scaling and bias vectors on the feed-forward output of every layer",
    source="RED, Wu et al. 2024 (arXiv 2402.15179), section 3, and its repository; reimplemented from the formula",
    Params=Params,
    learns="h' = (1 + s) h + b on the output of every feed-forward down projection, by gradient",
    parameters="2 L D (L D for scale or bias alone)",
    deviations=PRECISION,
    fit=trains(adapter),
)
