"""Rank heads at random."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from pydantic import Field

from lofit.localizers.localizer import Localizer, Scores
from lofit.spec.hyperparameters import NoParams

if TYPE_CHECKING:
    from lofit.training.context import FitContext


class Params(NoParams):
    """Which of many random orders."""

    draw: int = Field(default=0, ge=0, description="number of the draw, of several for the same run")


def score(context: FitContext, params: Params) -> Scores:
    """Give every head a uniform random score, by the draw and by the run's seed, model, task and fold."""
    import numpy as np

    scores = np.random.default_rng([context.seed, zlib.crc32(context.name.encode()), params.draw]).random(
        (context.n_layers, context.n_heads)
    )
    return Scores(scores, {"seconds": 0.0})


LOCALIZER = Localizer(
    name="random",
    summary="random order, by the run's seed",
    source="LoFiT (arXiv 2406.01563), Table 2, random selection",
    Params=Params,
    score=score,
)
