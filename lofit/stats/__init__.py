"""Intervals and tests for scores: over seeds, over test items, and between methods on the same items."""

from lofit.stats.components import Components, variance_components
from lofit.stats.intervals import Interval, bootstrap_interval, seed_interval, unseen_interval
from lofit.stats.paired import holm, paired_bootstrap_p, permutation_p
from lofit.stats.samples import Sample, paired_sample

__all__ = [
    "Components",
    "Interval",
    "Sample",
    "bootstrap_interval",
    "holm",
    "paired_bootstrap_p",
    "paired_sample",
    "permutation_p",
    "seed_interval",
    "unseen_interval",
    "variance_components",
]
