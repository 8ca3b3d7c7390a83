"""Tests of a difference between two methods on the same items, and a correction for multiple testing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from lofit.stats.samples import Sample

RESAMPLES = 4999


def difference_p(difference: Sample) -> float:
    """Two-sided p-value of a mean difference, for other clusters and, with several seeds, other seeds.

    This is the t-test that belongs to :func:`lofit.stats.half_width`: the p-value is below 5% where the 95% interval
    leaves out 0. It is NaN for fewer than two clusters.
    """
    t = abs(difference.mean) / math.sqrt(difference.variance)
    return float(2 * stats.t.sf(t, difference.degrees_of_freedom))


def paired_bootstrap_p(difference: Sample, rng: np.random.Generator, resamples: int = RESAMPLES) -> float:
    """One-sided p-value of a paired bootstrap: share of resamples in which the mean difference is not above zero.

    This is the test that marks cells in Figure 2 of the LoFiT paper (Koehn 2004, "Statistical significance tests for
    machine translation evaluation"). It resamples clusters, for the seeds as they are. The p-value is NaN for fewer
    than two clusters.
    """
    seeds, n = difference.sums.shape
    if not seeds or n < 2:
        return float("nan")
    sums = difference.sums.mean(axis=0)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
    return float((1 + np.count_nonzero(drawn @ sums <= 0)) / (1 + resamples))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple testing with Holm's step-down method; NaN stays NaN and is not counted.

    Of m p-values in ascending order, the i-th (from 0) becomes the largest of (m - j) p_j over j <= i, at most 1 (Holm
    1979, "A simple sequentially rejective multiple test procedure").

    >>> holm([0.01, 0.04, float("nan")])
    [0.02, 0.04, nan]
    """
    corrected = np.asarray(p_values, dtype="float64").copy()
    order = np.argsort(corrected)[: np.count_nonzero(~np.isnan(corrected))]  # NaN is sorted last
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * corrected[order]))
    return [float(p) for p in corrected]
