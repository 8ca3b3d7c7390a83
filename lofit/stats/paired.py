"""Tests of a difference between two methods on the same items, and a correction for multiple testing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from lofit.stats.intervals import RESAMPLES
from lofit.stats.samples import Sample


def permutation_p(difference: Sample, rng: np.random.Generator, resamples: int = RESAMPLES) -> float:
    """Two-sided p-value of a paired permutation test, which flips the signs of the clusters' differences.

    The test is exact if all sign flips can be enumerated within ``resamples``; otherwise flips are random, and the
    observed signs are counted among them. The p-value is 1 if at most one cluster differs, since its sign alone says
    nothing, and NaN without items.

    Args:
        difference: differences between the item scores of two methods.
        rng: generator for the flips.
        resamples: number of flips.
    """
    changed = difference.sums[difference.sums != 0]
    if not len(difference.sums):
        return float("nan")
    if len(changed) < 2:
        return 1.0
    found = stats.permutation_test(
        (changed,),
        lambda x, axis: x.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        alternative="two-sided",
        rng=rng,
    )
    return float(found.pvalue)


def paired_bootstrap_p(difference: Sample, rng: np.random.Generator, resamples: int = RESAMPLES) -> float:
    """One-sided p-value of a paired bootstrap: share of resamples in which the mean difference is not above zero.

    This is the test that marks cells in Figure 2 of the LoFiT paper (Koehn 2004, "Statistical significance tests for
    machine translation evaluation"). The p-value is NaN for fewer than two clusters.
    """
    n = len(difference.sums)
    if n < 2:
        return float("nan")
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
    return float((1 + np.count_nonzero(drawn @ difference.sums <= 0)) / (1 + resamples))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple testing with Holm's step-down method; NaN stays NaN and is not counted.

    >>> holm([0.01, 0.04, float("nan")])
    [0.02, 0.04, nan]
    """
    corrected = np.asarray(p_values, dtype="float64").copy()
    known = ~np.isnan(corrected)
    if known.any():
        corrected[known] = multipletests(corrected[known], method="holm")[1]
    return [float(p) for p in corrected]
