"""Overlap of two rankings of heads and the distance between their layers, compared with chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

DRAWS = 10_000
"""Pairs of random sets of heads from which :func:`expected_emd` is estimated."""


def shared_heads(first: pd.DataFrame, second: pd.DataFrame, k: int) -> int:
    """Count the heads that are among the ``k`` best of both rankings.

    Args:
        first: a ranking with columns layer, head, rank (1 is best).
        second: another ranking of the same heads.
        k: number of best heads.
    """
    one, other = (
        {(layer, head) for layer, head, rank in zip(f["layer"], f["head"], f["rank"], strict=True) if rank <= k}
        for f in (first, second)
    )
    return len(one & other)


def jaccard(shared: int, k: int) -> float:
    """Jaccard index (intersection over union) of two sets of ``k`` heads that have ``shared`` heads in common."""
    return shared / (2 * k - shared)


def expected_jaccard(n: int, k: int) -> float:
    """Mean Jaccard index of two independent random choices of ``k`` of ``n`` heads.

    The size i of the intersection is hypergeometric; the mean is that of i / (2k - i).
    """
    sizes = np.arange(max(0, 2 * k - n), k + 1)
    return float(np.sum(stats.hypergeom(n, k, k).pmf(sizes) * sizes / (2 * k - sizes)))


def emd(first: pd.DataFrame, second: pd.DataFrame, k: int) -> float:
    """Earth mover's distance between the layers of the ``k`` best heads of two rankings, in layers (LoFiT, Figure 6).

    It is the mean number of layers by which the heads of one set would have to move to lie where those of the other do.
    """
    one, other = (frame.loc[frame["rank"] <= k, "layer"].to_numpy() for frame in (first, second))
    return float(stats.wasserstein_distance(one, other))


@cache
def expected_emd(heads_per_layer: tuple[int, ...], k: int) -> float:
    """Mean earth mover's distance between the layers of two independent random choices of ``k`` heads, in layers.

    It has no closed form, and is the mean over ``DRAWS`` pairs from a generator with a fixed seed. Between sets of
    equal size it is the sum of the differences of the two cumulative distributions over the layers.

    Args:
        heads_per_layer: number of heads of each layer.
        k: size of both choices.
    """
    drawn = np.random.default_rng(0).multivariate_hypergeometric(heads_per_layer, k, (2, DRAWS), method="marginals")
    below = drawn.cumsum(axis=-1) / k  # [2, draws, layers]
    return float(np.abs(below[0] - below[1]).sum(axis=-1).mean())


def overlap_p_value(n: int, k: int, shared: int) -> float:
    """Probability that two independent random choices of ``k`` of ``n`` heads share at least ``shared``."""
    return float(stats.hypergeom(n, k, k).sf(shared - 1))


def rank_correlation(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Spearman's correlation of the scores of all heads; NaN if all scores of a ranking are equal."""
    one, other = (f.sort_values(["layer", "head"])["score"].to_numpy() for f in (first, second))
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(stats.spearmanr(one, other).statistic)


COLUMNS = (
    "first", "second", "k", "shared", "overlap", "expected_overlap", "jaccard", "expected_jaccard", "p_value",
    "spearman", "emd", "expected_emd",
)  # fmt: skip
"""Of the table of :func:`overlap_table`."""


def overlap_table(rankings: Mapping[str, pd.DataFrame], counts: Iterable[int]) -> pd.DataFrame:
    """Compare every pair of rankings of one model.

    Args:
        rankings: name to ranking, all of the same heads.
        counts: numbers of best heads (K).

    Returns:
        Frame with columns first, second, k, shared (number of heads), overlap (shared / k, which the LoFiT paper calls
        Jaccard), jaccard, p_value (of sharing at least as many heads by chance), spearman (of all scores), emd (earth
        mover's distance between the layers of the best heads, in layers), and of random heads expected_overlap,
        expected_jaccard and expected_emd. NaN if a ranking is empty.
    """
    rows: list[dict[str, Any]] = []
    counts = list(counts)
    for (first, one), (second, other) in combinations(rankings.items(), 2):
        names = {"first": first, "second": second}
        if one.empty or other.empty:
            rows += [names | {"k": k} for k in counts]
            continue
        correlation, heads = rank_correlation(one, other), tuple(np.bincount(one["layer"]).tolist())
        for k in counts:
            shared = shared_heads(one, other, k)
            row = {"k": k, "shared": shared, "overlap": shared / k, "expected_overlap": k / len(one)}
            row |= {"jaccard": jaccard(shared, k), "expected_jaccard": expected_jaccard(len(one), k)}
            row |= {"p_value": overlap_p_value(len(one), k, shared), "spearman": correlation}
            rows.append(names | row | {"emd": emd(one, other, k), "expected_emd": expected_emd(heads, k)})
    return pd.DataFrame(rows, columns=list(COLUMNS))
