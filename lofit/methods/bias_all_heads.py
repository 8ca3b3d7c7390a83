"""Offset vectors on all heads: LoFiT's step V without localization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit import interventions
from lofit.methods.lofit import Params
from lofit.methods.method import Method, trains

if TYPE_CHECKING:
    from peft import PeftConfig

    from lofit.training.context import FitContext


def adapter(params: Params, context: FitContext) -> PeftConfig:
    """Configure offsets v of shape [head dim] on every head."""
    return interventions.LofitConfig(scale=False, offset=True, init_std=params.init_std, init_seed=context.seed)


METHOD = Method(
    name="bias_all_heads",
    summary="offset vectors on all heads, without localization",
    source="LoFiT (arXiv 2406.01563) without its localization, as later papers run it under that name",
    Params=Params,
    learns="an offset v on every head, by gradient",
    parameters="L H d",
    fit=trains(adapter),
)
