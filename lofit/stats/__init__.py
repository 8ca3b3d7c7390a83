"""Intervals and tests for scores: over seeds, over test items, and between methods on the same items."""

from lofit.stats.components import Components, variance_components
from lofit.stats.intervals import Interval, half_width, interval, seed_interval
from lofit.stats.paired import difference_p, holm, paired_bootstrap_p
from lofit.stats.samples import EVERY_SEED, LEVEL, Sample, by_seed, paired_sample

__all__ = [
    "EVERY_SEED",
    "LEVEL",
    "Components",
    "Interval",
    "Sample",
    "by_seed",
    "difference_p",
    "half_width",
    "holm",
    "interval",
    "paired_bootstrap_p",
    "paired_sample",
    "seed_interval",
    "variance_components",
]
