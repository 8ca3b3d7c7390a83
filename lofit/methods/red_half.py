"""RED on the attention heads of the upper half of the layers: "RED (Half)" of the LoFiT paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit import interventions
from lofit.methods.method import Method, trains
from lofit.methods.red import PRECISION, Params

if TYPE_CHECKING:
    from peft import PeftConfig

    from lofit.training.context import FitContext


def adapter(params: Params, context: FitContext) -> PeftConfig:
    """Configure vectors 1 + s and b of the head dimension on every head of the layers from L // 2 on."""
    upper = range(context.n_layers // 2, context.n_layers)
    heads = [(layer, head) for layer in upper for head in range(context.n_heads)]
    return interventions.LofitConfig(heads=heads, scale=params.scale, offset=params.bias, init_seed=context.seed)


METHOD = Method(
    name="red_half",
    summary="scaling and bias vectors on every attention head of the upper half of the layers",
    source="LoFiT (arXiv 2406.01563), Table 3, RED (Half); the formula of RED (arXiv 2402.15179)",
    Params=Params,
    learns="z' = (1 + s) z + b on every head of the layers from L // 2 on, by gradient",
    parameters="L H d, if L is even (half of it for scale or bias alone)",
    deviations=PRECISION,
    fit=trains(adapter),
)
