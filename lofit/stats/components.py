"""Variance components of a crossed two-way layout: a value for every group (training subset) and repetition (seed)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Components:
    """Variance components of a crossed two-way layout with one value per cell.

    Attributes:
        within: mean variance within a group: that of repetitions and of their interaction with groups.
        between: variance of groups; at least 0.
        p: p-value of the F test that the groups do not differ; NaN if there is no interaction.
    """

    within: float
    between: float
    p: float


def variance_components(values: ArrayLike) -> Components:
    """Estimate variance components by the method of moments (two-way random effects, one value per cell).

    All groups have the same repetitions, so the error of a group mean is the interaction mean square, not the variance
    within a group, which also has the main effect of repetitions (Searle, Casella and McCulloch 1992, chapter 4).

    Args:
        values: float [groups, repetitions], at least two of each.

    Raises:
        ValueError: there are fewer than two groups or repetitions.
    """
    table = np.asarray(values, "float64")
    groups, size = table.shape
    if groups < 2 or size < 2:
        raise ValueError(f"variance components need two groups of two values, found {groups} of {size}")
    of_means = float(table.mean(axis=1).var(ddof=1))
    effects = table.mean(axis=1, keepdims=True) + table.mean(axis=0) - table.mean()
    freedom = (groups - 1) * (size - 1)
    residual = float(((table - effects) ** 2).sum()) / freedom
    p = math.nan
    if residual > 1e-12 * float(table.var()):  # not rounding alone
        p = float(stats.f.sf(size * of_means / residual, groups - 1, freedom))
    return Components(within=float(table.var(axis=1, ddof=1).mean()), between=max(0.0, of_means - residual / size), p=p)
