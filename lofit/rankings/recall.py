"""How many of the heads that are known to need changing a ranking names first."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from lofit.interventions import Head


def recall_curve(ranking: pd.DataFrame, planted: Collection[Head]) -> np.ndarray:
    """Return the share of the planted heads among the first n heads, for n from 1 to all: float64 [heads].

    Args:
        ranking: as :func:`lofit.rankings.ranking.read_ranking` returns it.
        planted: the heads to be found.
    """
    found = [head in planted for head in zip(ranking["layer"], ranking["head"], strict=True)]
    return np.cumsum(found) / len(planted)


def normalised_area(curve: np.ndarray, oracle: np.ndarray) -> float:
    """Return the area under a recall curve, 0 for random heads (whose recall is n / heads) and 1 for the oracle.

    NaN if the oracle is no better than random heads.
    """
    n = len(curve)
    chance, best = (n + 1) / (2 * n), float(oracle.mean())
    return (float(curve.mean()) - chance) / (best - chance) if best > chance else float("nan")
