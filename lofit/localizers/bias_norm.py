"""Rank heads by the norm of offset vectors trained on all of them (arXiv 2406.01563, Table 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit.localizers.localizer import Localizer, Scores
from lofit.localizers.lofit import Params, norms_on_all_heads

if TYPE_CHECKING:
    from lofit.training.context import FitContext


def score(context: FitContext, params: Params) -> Scores:
    """Train v in z' = z + v on all heads, and score each head by the L2 norm of its v."""
    return norms_on_all_heads(context, params, "offset")


LOCALIZER = Localizer(
    name="bias_norm",
    summary="L2 norm of offset vectors trained on all heads",
    source="LoFiT (arXiv 2406.01563), Table 2, bias-based selection",
    Params=Params,
    score=score,
)
