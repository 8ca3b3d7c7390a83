"""Rank heads by the mean difference of their activations on right and wrong answers (arXiv 2410.12299)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lofit.localizers.localizer import Localizer, Scores
from lofit.spec.hyperparameters import NoParams

if TYPE_CHECKING:
    from lofit.training.context import FitContext


def score(context: FitContext, params: NoParams) -> Scores:
    """Score each head by right minus wrong, averaged over the head's dimensions and the pairs of training answers."""
    start = time.perf_counter()
    values = context.activations.mean_differences(context.activations.heads).mean(-1)
    return Scores(values, {"seconds": time.perf_counter() - start})


LOCALIZER = Localizer(
    name="sadi",
    summary="difference of a head's activations on right and wrong answers, averaged over its dimensions",
    source="SADI, Wang et al. 2024 (arXiv 2410.12299); steering.py of weixuan-wang123/SADI@d7fedf0",
    Params=NoParams,
    score=score,
    uses_activations=True,
)
