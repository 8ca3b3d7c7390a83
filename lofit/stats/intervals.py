"""Confidence intervals over seeds and over the items of a test set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lofit.stats.samples import Sample

LEVEL = 0.95
RESAMPLES = 4999


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its interval; the bounds are NaN if they cannot be estimated."""

    mean: float
    low: float
    high: float


def seed_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Mean over seeds with Student's t interval, since seeds are few and their spread is estimated from them alone."""
    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half)


def unseen_interval(sample: Sample, level: float = LEVEL) -> Interval:
    """Interval of a mean when all clusters score the same, from a bound on the share of clusters that score otherwise.

    The half-width is Clopper and Pearson's bound on a share of which no case was seen (1934, Biometrika 26(4)), times
    one, the range of a score.
    """
    unseen = 1 - ((1 - level) / 2) ** (1 / len(sample.sums))
    return Interval(sample.mean, sample.mean - unseen, sample.mean + unseen)


def bootstrap_interval(
    sample: Sample, rng: np.random.Generator, level: float = LEVEL, resamples: int = RESAMPLES
) -> Interval:
    """Mean over items with the percentile interval of a bootstrap over clusters.

    The percentiles are widened as for Student's t (Hesterberg 2015, "What teachers should know about the bootstrap",
    The American Statistician 69(4), section 5: expanded percentile interval): a bootstrap distribution is too narrow
    by sqrt((n - 1) / n), and it ignores that its spread is itself an estimate.

    If all clusters have the same mean, nothing varies under resampling, and :func:`unseen_interval` is used.

    Args:
        sample: scores in [0, 1], or differences between such scores.
        rng: generator for the resamples.
        level: confidence level.
        resamples: number of resamples.
    """
    n, mean = len(sample.sums), sample.mean
    if n < 2:
        return Interval(mean, math.nan, math.nan)
    if np.ptp(sample.sums / sample.counts) == 0:
        return unseen_interval(sample, level)
    quantile = stats.t.ppf((1 + level) / 2, n - 1)
    widened = 1 - 2 * stats.norm.sf(math.sqrt(n / (n - 1)) * quantile)
    found = stats.bootstrap(
        (sample.sums, sample.counts),
        lambda sums, counts, axis: sums.sum(axis=axis) / counts.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=widened,
        n_resamples=resamples,
        rng=rng,
    )
    low, high = found.confidence_interval
    return Interval(mean, float(low), float(high))
