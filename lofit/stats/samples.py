"""Scores of test items, summed within the clusters that are the independent units of resampling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """Scores, or differences of scores, of the items of one test set.

    Items that share a context (a passage, a story) are not independent, so they form a cluster and are resampled
    together.

    Attributes:
        sums: float64 [clusters], sum of the scores of a cluster's items.
        counts: float64 [clusters], number of its items.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.float64]

    @classmethod
    def of(cls, values: pd.Series, clusters: pd.Series | None = None) -> Sample:
        """Group items by cluster.

        Args:
            values: one score per item.
            clusters: name of each item's cluster; None if every item is a cluster by itself.
        """
        names = clusters if clusters is not None else pd.Series(range(len(values)), index=values.index)
        grouped = values.astype("float64").groupby(names, sort=True)
        return cls(np.asarray(grouped.sum(), "float64"), np.asarray(grouped.count(), "float64"))

    @property
    def mean(self) -> float:
        """Mean over items; NaN if there are none."""
        return float(self.sums.sum() / self.counts.sum()) if len(self.sums) else float("nan")

    @property
    def n_items(self) -> int:
        """Number of items."""
        return int(self.counts.sum())

    @property
    def variance(self) -> float:
        """Variance of the mean, from the spread of the clusters about it (linearised ratio); NaN for fewer than two."""
        n = len(self.sums)
        if n < 2:
            return float("nan")
        residuals = self.sums - self.mean * self.counts
        return float(n / (n - 1) * (residuals**2).sum() / self.counts.sum() ** 2)


def paired_sample(items: pd.DataFrame, reference: pd.DataFrame) -> Sample:
    """Differences ``items`` - ``reference`` on the items scored in both, each item first averaged over runs (seeds).

    Args:
        items: frame with columns ``item``, ``cluster`` and ``value``.
        reference: frame with the same columns.
    """
    both = pd.concat(
        [frame.groupby(["cluster", "item"])["value"].mean() for frame in (items, reference)],
        axis=1,
        keys=["run", "reference"],
    ).dropna()
    clusters = both.index.get_level_values("cluster").to_series(index=both.index)
    return Sample.of(both["run"] - both["reference"], clusters)
