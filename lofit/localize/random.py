"""Rank heads at random."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from lofit.fit.params import NoParams
from lofit.localize.spec import Localizer

if TYPE_CHECKING:
    from lofit.fit.workbench import Workbench
    from lofit.localize.ranking import Scores


def score(bench: Workbench, params: NoParams) -> Scores:
    """Every head gets a uniform random score, drawn by the run's seed, anew for every model, task and fold."""
    import numpy as np

    from lofit.localize.ranking import Scores

    scores = np.random.default_rng([bench.seed, zlib.crc32(bench.name.encode())]).random(
        (bench.n_layers, bench.n_heads)
    )
    return Scores(scores, {"seconds": 0.0})


LOCALIZER = Localizer(
    name="random",
    summary="random order, by the run's seed",
    source="LoFiT (arXiv 2406.01563), Table 2, random selection",
    Params=NoParams,
    score=score,
)
