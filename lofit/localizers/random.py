"""Rank heads at random."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from lofit.localizers.localizer import Localizer, Scores
from lofit.spec.hyperparameters import NoParams

if TYPE_CHECKING:
    from lofit.training.context import FitContext


def score(context: FitContext, params: NoParams) -> Scores:
    """Give every head a uniform random score, which depends on the run's seed and on model, task and fold."""
    import numpy as np

    scores = np.random.default_rng([context.seed, zlib.crc32(context.name.encode())]).random(
        (context.n_layers, context.n_heads)
    )
    return Scores(scores, {"seconds": 0.0})


LOCALIZER = Localizer(
    name="random",
    summary="random order, by the run's seed",
    source="LoFiT (arXiv 2406.01563), Table 2, random selection",
    Params=NoParams,
    score=score,
)
