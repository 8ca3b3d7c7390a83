"""Overlap of two rankings of heads, compared with chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats


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


def overlap_p_value(n: int, k: int, shared: int) -> float:
    """Probability that two independent random choices of ``k`` of ``n`` heads share at least ``shared``."""
    return float(stats.hypergeom(n, k, k).sf(shared - 1))


def rank_correlation(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Spearman's correlation of the scores of all heads; NaN if all scores of a ranking are equal."""
    one, other = (f.sort_values(["layer", "head"])["score"].to_numpy() for f in (first, second))
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(stats.spearmanr(one, other).statistic)


def overlap_table(rankings: Mapping[str, pd.DataFrame], counts: Iterable[int]) -> pd.DataFrame:
    """Compare every pair of rankings of one model.

    Args:
        rankings: name to ranking, all of the same heads.
        counts: numbers of best heads (K).

    Returns:
        Frame with columns first, second, k, shared (number of heads), jaccard, expected_jaccard (for random heads),
        p_value (of sharing at least as many heads by chance), spearman (of all scores). NaN if a ranking is empty.
    """
    rows: list[tuple[Any, ...]] = []
    counts = list(counts)
    for (first, one), (second, other) in combinations(rankings.items(), 2):
        if one.empty or other.empty:
            rows += [(first, second, k, *[float("nan")] * 5) for k in counts]
            continue
        correlation = rank_correlation(one, other)
        for k in counts:
            shared = shared_heads(one, other, k)
            chance = expected_jaccard(len(one), k), overlap_p_value(len(one), k, shared)
            rows.append((first, second, k, shared, jaccard(shared, k), *chance, correlation))
    columns = ["first", "second", "k", "shared", "jaccard", "expected_jaccard", "p_value", "spearman"]
    return pd.DataFrame(rows, columns=columns)
