"""Scores of test items by seed, summed within the clusters of items that are independent of each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
"""Confidence level of all intervals."""
EVERY_SEED = -1
"""Seed of the scores of a method that no seed changes, such as the base model."""


@dataclass(frozen=True)
class Sample:
    """Scores, or differences of scores, of the items of one test set, for each seed.

    Items that share a context (a passage, a story) are not independent, so they form a cluster. Seeds and clusters are
    two crossed samples: other seeds could have been drawn, and other clusters.

    Attributes:
        sums: float64 [seeds, clusters], sum of the scores of a cluster's items.
        counts: float64 [clusters], number of its items.
        bounded: whether scores are between 0 and 1, as those in nats are not.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.float64]
    bounded: bool = True

    @classmethod
    def of(cls, values: pd.DataFrame, bounded: bool = True) -> Sample:
        """Group items by cluster.

        Args:
            values: one column per seed, and one row per item with an index level ``cluster``; no value is missing.
            bounded: see :class:`Sample`.
        """
        grouped = values.groupby(level="cluster", sort=True)
        return cls(grouped.sum().to_numpy("float64").T, np.asarray(grouped.size(), "float64"), bounded)

    @property
    def mean(self) -> float:
        """Mean over items and seeds; NaN if there are none."""
        return float(self.sums.mean(axis=0).sum() / self.counts.sum()) if self.sums.size else math.nan

    @property
    def n_items(self) -> int:
        """Number of items."""
        return int(self.counts.sum())

    @cached_property
    def parts(self) -> tuple[float, float]:
        """Variance of the mean over clusters, and over seeds (0 for one seed); NaN for fewer than two clusters.

        The first is that of seeds as they are, the second that of clusters as they are. Their sum counts the
        interaction of seeds and clusters twice, which makes it too large rather than too small: by up to two where
        nothing but the interaction varies.
        """
        seeds, clusters = self.sums.shape
        if not seeds or clusters < 2:
            return math.nan, math.nan
        # What seed and cluster add to the mean, a ratio that is linearised.
        residuals = (self.sums - self.mean * self.counts) / self.counts.sum()
        residuals[np.abs(residuals) < 1e-12] = 0  # rounding: equal scores shall have no variance
        over_clusters = clusters / (clusters - 1) * (residuals.mean(axis=0) ** 2).sum()
        over_seeds = residuals.sum(axis=1).var(ddof=1) / seeds if seeds > 1 else 0.0
        return float(over_clusters), float(over_seeds)

    @property
    def variance(self) -> float:
        """Variance of the mean over other clusters and, with several seeds, other seeds; NaN for fewer than two.

        If no bounded score varies, other clusters may differ all the same: the variance is then that of a normal mean
        whose interval is Clopper and Pearson's bound on a share of which no case was seen (1934, Biometrika 26(4)),
        times one, the range of a score. Scores in nats do not vary if models do not differ.
        """
        if (found := sum(self.parts)) != 0 or not self.bounded:
            return found
        unseen = 1 - ((1 - LEVEL) / 2) ** (1 / len(self.counts))
        return float((unseen / stats.norm.ppf((1 + LEVEL) / 2)) ** 2)

    @property
    def cluster_freedom(self) -> float:
        """Degrees of freedom of the variance over clusters, if the items of each were all alike.

        They are Satterthwaite's for the sum of squared residuals (Bell and McCaffrey 2002, Survey Methodology 28(2)):
        ``trace(A)**2 / trace(A @ A)``, where A is the square of ``diag(p) - p p'`` and p are the clusters' shares of
        the items. They are clusters - 1 if all are equally large, and fewer if a few dominate. Alike items are the
        worst case.
        """
        share = self.counts / self.counts.sum()
        if share.max() > 0.999:
            return 1.0  # the limit, of which rounding would leave nothing
        s2, s3, s4, s5 = (float((share**power).sum()) for power in (2, 3, 4, 5))
        trace = s2 - 2 * s3 + s2**2
        squared = s4 - 4 * s5 + 2 * (2 * s2 * s4 + s3**2) - 4 * s2**2 * s3 + s2**4
        return trace**2 / squared

    @property
    def degrees_of_freedom(self) -> float:
        """Degrees of freedom of the variance (Satterthwaite 1946, Biometrics Bulletin 2(6), equation 3)."""
        seeds = len(self.sums)
        over_clusters, over_seeds = self.parts
        total = over_clusters + over_seeds
        if math.isnan(total) or not total:
            return total or math.inf
        spread = over_clusters**2 / self.cluster_freedom
        if seeds > 1:
            spread += over_seeds**2 / (seeds - 1)
        return total**2 / spread


def by_seed(items: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of a method: one row per cluster and item, one column per seed that scored all items.

    Args:
        items: frame with columns ``seed``, ``item``, ``cluster`` and ``value``; values of one seed and item (over
            training seeds) are averaged.
    """
    table = items.groupby(["cluster", "item", "seed"])["value"].mean().unstack("seed")
    return table.dropna(axis="columns")


def paired_sample(one: pd.DataFrame, other: pd.DataFrame, ratio: float = 1.0, bounded: bool = True) -> Sample:
    """Differences ``one`` - ``ratio`` x ``other`` on the items scored in both, seed by seed.

    Seeds that only one of the two has are left out. Scores of :data:`EVERY_SEED` are compared with each seed.

    Args:
        one: scores of a method, as :func:`by_seed` returns them.
        other: scores of the method that it is compared with, in the same form.
        ratio: factor of ``other``.
        bounded: see :class:`Sample`.
    """
    both = one.index.intersection(other.index)
    one, other = one.loc[both], other.loc[both]
    if list(one.columns) == [EVERY_SEED]:
        one = _repeated(one, other.columns)
    elif list(other.columns) == [EVERY_SEED]:
        other = _repeated(other, one.columns)
    shared = one.columns.intersection(other.columns)
    return Sample.of(one[shared] - ratio * other[shared], bounded)


def _repeated(table: pd.DataFrame, seeds: pd.Index) -> pd.DataFrame:
    return pd.DataFrame(np.repeat(table.to_numpy(), len(seeds), axis=1), index=table.index, columns=seeds)
