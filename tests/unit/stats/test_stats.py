"""Intervals cover what they should, tests reject as often as they may, and both know clusters."""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lofit.stats import (
    Sample,
    bootstrap_interval,
    holm,
    paired_bootstrap_p,
    paired_sample,
    permutation_p,
    seed_interval,
    variance_components,
)

WORLDS = 1500
# A rate measured in so many worlds is known to about 1.1 points (two standard errors at 5%).


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def clustered(generator: np.random.Generator, n_clusters: int, shift: float = 0.0) -> Sample:
    """Scores in which a third of the variance belongs to the cluster; clusters of one to five items."""
    sizes = generator.integers(1, 6, n_clusters)
    of_cluster = np.repeat(generator.normal(0, 1, n_clusters), sizes)
    values = pd.Series(shift + of_cluster + generator.normal(0, math.sqrt(2), sizes.sum()))
    return Sample.of(values, pd.Series(np.repeat(np.arange(n_clusters), sizes)))


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_seed_intervals_cover_the_mean_in_95_of_100_worlds(n_seeds: int) -> None:
    generator = rng()
    found = [seed_interval(list(generator.normal(0.5, 0.03, n_seeds))) for _ in range(WORLDS)]
    assert abs(np.mean([interval.low <= 0.5 <= interval.high for interval in found]) - 0.95) < 0.02


@pytest.mark.parametrize(("n_items", "rate"), [(100, 0.5), (100, 0.3), (400, 0.1)])
@pytest.mark.slow
def test_item_intervals_cover_the_rate(n_items: int, rate: float) -> None:
    generator = rng()
    covered = []
    for _ in range(WORLDS):
        sample = Sample.of(pd.Series((generator.random(n_items) < rate).astype(float)))
        interval = bootstrap_interval(sample, generator, resamples=999)
        covered.append(interval.low <= rate <= interval.high)
    assert abs(np.mean(covered) - 0.95) < 0.02


@pytest.mark.slow
def test_intervals_over_clusters_cover_the_mean_and_intervals_over_items_do_not() -> None:
    generator = rng()
    covered = {"clusters": 0, "items": 0}
    for _ in range(WORLDS):
        sizes = np.full(60, 5)
        values = pd.Series(np.repeat(generator.normal(0, 1, 60), 5) + generator.normal(0, 1, 300))
        names = pd.Series(np.repeat(np.arange(60), sizes))
        for kind, sample in (("clusters", Sample.of(values, names)), ("items", Sample.of(values))):
            interval = bootstrap_interval(sample, generator, resamples=999)
            covered[kind] += interval.low <= 0 <= interval.high
    assert abs(covered["clusters"] / WORLDS - 0.95) < 0.02
    assert covered["items"] / WORLDS < 0.85


@pytest.mark.parametrize("alpha", [0.05, 0.1])
@pytest.mark.slow
def test_tests_reject_no_more_often_than_they_may(alpha: float) -> None:
    generator = rng()
    rejected = {"permutation": 0, "bootstrap": 0}
    for _ in range(WORLDS):
        sample = clustered(generator, 60)
        rejected["permutation"] += permutation_p(sample, generator, 999) <= alpha
        rejected["bootstrap"] += paired_bootstrap_p(sample, generator, 999) <= alpha
    assert abs(rejected["permutation"] / WORLDS - alpha) < 0.02
    assert abs(rejected["bootstrap"] / WORLDS - alpha) < 0.02


def test_tests_find_what_is_there() -> None:
    sample = clustered(rng(), 200, shift=1.0)
    assert permutation_p(sample, rng()) < 0.001
    assert paired_bootstrap_p(sample, rng()) < 0.001
    assert paired_bootstrap_p(Sample(-sample.sums, sample.counts), rng()) > 0.999


def test_few_items_are_tested_exactly() -> None:
    values = [0.5, 1.0, -0.25, 2.0, 0.75]
    flips = [sum(s * v for s, v in zip(signs, values, strict=True)) for signs in itertools.product([1, -1], repeat=5)]
    extreme = sum(abs(total) >= sum(values) - 1e-12 for total in flips) / len(flips)
    assert permutation_p(Sample.of(pd.Series(values)), rng()) == pytest.approx(extreme)


@pytest.mark.parametrize(("values", "p"), [([0.0, 0.0, 1.0], 1.0), ([1.0], 1.0), ([0.0, 1.0, 1.0], 0.5)])
def test_hardly_any_item_that_differs_says_hardly_anything(values: list[float], p: float) -> None:
    assert permutation_p(Sample.of(pd.Series(values)), rng()) == p


def test_where_nothing_varies_the_interval_still_has_a_width() -> None:
    same = Sample.of(pd.Series([0.0] * 100))
    interval = bootstrap_interval(same, rng())
    assert interval.high == -interval.low == pytest.approx(1 - 0.025**0.01)
    assert permutation_p(same, rng()) == 1.0


def test_without_two_units_there_is_no_telling() -> None:
    one = Sample.of(pd.Series([1.0, 0.0]), pd.Series(["a", "a"]))
    assert one.mean == 0.5
    assert math.isnan(bootstrap_interval(one, rng()).low)
    assert math.isnan(paired_bootstrap_p(one, rng()))
    assert math.isnan(seed_interval([0.5]).low)
    assert math.isnan(Sample.of(pd.Series([], dtype=float)).mean)
    assert math.isnan(permutation_p(Sample.of(pd.Series([], dtype=float)), rng()))


def test_the_same_generator_gives_the_same_numbers() -> None:
    sample = clustered(rng(), 50)
    assert bootstrap_interval(sample, rng(1)) == bootstrap_interval(sample, rng(1))
    assert permutation_p(sample, rng(1)) == permutation_p(sample, rng(1))


def test_pairs_are_matched_by_item_after_averaging_over_seeds() -> None:
    ours = pd.DataFrame({"item": ["a", "a", "b", "c"], "cluster": ["x", "x", "x", "y"], "value": [1.0, 0.0, 1.0, 1.0]})
    base = pd.DataFrame({"item": ["b", "a", "d"], "cluster": ["x", "x", "y"], "value": [0.0, 0.25, 1.0]})
    sample = paired_sample(ours, base)
    assert sample.sums.tolist() == [1.25]
    assert sample.counts.tolist() == [2.0]


def test_the_variance_is_that_of_the_mean_when_every_item_stands_alone() -> None:
    values = pd.Series(rng().normal(size=40))
    assert Sample.of(values).variance == pytest.approx(values.var(ddof=1) / 40)


@pytest.fixture
def frozen_heap() -> Iterator[None]:
    """statsmodels collects garbage at every correction, which takes long with the libraries of all tests loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("frozen_heap")
@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_step_down_formula(p_values: list[float]) -> None:
    m, running, expected = len(p_values), 0.0, [0.0] * len(p_values)
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        running = max(running, min(1.0, (m - rank) * p_values[i]))
        expected[i] = running
    assert holm(p_values) == pytest.approx(expected)
    assert holm([*p_values, math.nan])[:-1] == pytest.approx(expected)


def test_variance_components_are_found_on_average() -> None:
    """Simulated layouts of known variances, and of no difference between groups."""
    rng = np.random.default_rng(4)
    found = [variance_components(rng.normal(0, 3, size=(6, 1)) + rng.normal(0, 2, size=(6, 4))) for _ in range(4000)]
    assert np.mean([f.within for f in found]) == pytest.approx(4, rel=0.03)
    assert np.mean([f.between for f in found]) == pytest.approx(9, rel=0.05)
    alike = [variance_components(rng.normal(0, 2, size=(3, 3))) for _ in range(4000)]
    assert np.mean([f.p < 0.05 for f in alike]) == pytest.approx(0.05, abs=0.02)
    assert np.mean([f.between == 0 for f in alike]) > 0.4
    exact = variance_components([[1.0, 1.0], [3.0, 3.0]])
    assert (exact.within, exact.between) == (0, 2)
    assert math.isnan(exact.p)
    with pytest.raises(ValueError, match="two groups of two"):
        variance_components([[1.0, 2.0]])
