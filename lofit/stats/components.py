"""Variance components: how much of the variance is between groups and how much within them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Components:
    """Variance components of a balanced one-way layout.

    Attributes:
        within: mean variance within a group.
        between: variance of the group means, less what the variance within groups explains; at least 0.
        p: p-value of the F test that the groups do not differ; NaN if nothing varies within them.
    """

    within: float
    between: float
    p: float


def variance_components(values: ArrayLike) -> Components:
    """Estimate variance components by the method of moments (Searle, Casella and McCulloch 1992, section 3.5).

    Args:
        values: float [groups, values per group], at least two of each.

    Raises:
        ValueError: there are fewer than two groups or values per group.
    """
    table = np.asarray(values, "float64")
    groups, size = table.shape
    if groups < 2 or size < 2:
        raise ValueError(f"variance components need two groups of two values, found {groups} of {size}")
    within = float(table.var(axis=1, ddof=1).mean())
    of_means = float(table.mean(axis=1).var(ddof=1))
    p = float(stats.f_oneway(*table).pvalue) if within > 0 else math.nan
    return Components(within=within, between=max(0.0, of_means - within / size), p=p)
