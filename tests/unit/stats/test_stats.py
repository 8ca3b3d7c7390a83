"""Intervals cover what they should, tests reject as often as they may, and both know clusters."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lofit.stats import (
    EVERY_SEED,
    Sample,
    by_seed,
    difference_p,
    holm,
    interval,
    paired_bootstrap_p,
    paired_sample,
    seed_interval,
    variance_components,
)

WORLDS = 1500
# A rate measured in so many worlds is known to about 1.1 points (two standard errors at 5%).


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def one_seed(values: pd.Series, clusters: object = None) -> Sample:
    """The sample of one score per item, each a cluster by itself unless clusters are named."""
    names = range(len(values)) if clusters is None else clusters
    index = pd.MultiIndex.from_arrays([list(names), range(len(values))], names=["cluster", "item"])
    return Sample.of(pd.DataFrame({0: np.asarray(values, "float64")}, index=index))


def clustered(generator: np.random.Generator, n_clusters: int, shift: float = 0.0) -> Sample:
    """Scores in which a third of the variance belongs to the cluster; clusters of one to five items."""
    sizes = generator.integers(1, 6, n_clusters)
    of_cluster = np.repeat(generator.normal(0, 1, n_clusters), sizes)
    values = pd.Series(shift + of_cluster + generator.normal(0, math.sqrt(2), sizes.sum()))
    return one_seed(values, np.repeat(np.arange(n_clusters), sizes))


def answers(
    generator: np.random.Generator, methods: int, seeds: int, clusters: int, *, between_seeds: float
) -> tuple[list[Sample], float]:
    """Right and wrong answers of methods that are equally good, and the share that they get right on average.

    Whether an answer is right depends on the cluster, the item, the method on the item, the seed, and the seed on the
    item. A cluster has one to three items.
    """
    counts = generator.integers(1, 4, clusters)
    of = np.repeat(np.arange(clusters), counts)
    items = len(of)
    hardness = generator.normal(size=clusters)[of] + 0.7 * generator.normal(size=items)
    found = []
    for _ in range(methods):
        own = hardness + 0.5 * generator.normal(size=items)
        trained = between_seeds * generator.normal(size=(seeds, 1)) + 0.5 * generator.normal(size=(seeds, items))
        right = own + trained - 0.3 > 0
        sums = np.array([np.bincount(of, each, clusters) for each in right])
        found.append(Sample(sums, counts.astype("float64")))
    spread = math.sqrt(1 + 0.7**2 + 0.5**2 + between_seeds**2 + 0.5**2)
    return found, float(stats.norm.cdf(-0.3 / spread))


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_seed_intervals_cover_the_mean_in_95_of_100_worlds(n_seeds: int) -> None:
    generator = rng()
    found = [seed_interval(list(generator.normal(0.5, 0.03, n_seeds))) for _ in range(WORLDS)]
    assert abs(np.mean([interval.low <= 0.5 <= interval.high for interval in found]) - 0.95) < 0.02


@pytest.mark.parametrize(("n_items", "rate"), [(100, 0.5), (100, 0.3), (400, 0.1)])
def test_item_intervals_cover_the_rate(n_items: int, rate: float) -> None:
    generator = rng()
    covered = []
    for _ in range(WORLDS):
        found = interval(Sample((generator.random((1, n_items)) < rate).astype(float), np.ones(n_items)))
        covered.append(found.low <= rate <= found.high)
    assert abs(np.mean(covered) - 0.95) < 0.02


@pytest.mark.parametrize(("n_seeds", "between_seeds"), [(1, 0.0), *itertools.product([2, 3, 5], [0.0, 0.03, 0.1])])
def test_intervals_over_clusters_and_seeds_cover_the_mean(n_seeds: int, between_seeds: float) -> None:
    """At 0.1, seeds differ by 3 points, as much as the mean of the clusters does from test set to test set.

    Two seeds hardly say how much seeds differ: 93 of 100 intervals hold the mean there.
    """
    generator, covered = rng(), 0
    for _ in range(WORLDS):
        [sample], truth = answers(generator, 1, n_seeds, 300, between_seeds=between_seeds)
        found = interval(sample)
        covered += found.low <= truth <= found.high
    assert (0.92 if n_seeds == 2 else 0.93) <= covered / WORLDS <= 0.97


@pytest.mark.parametrize("alike", [0.1, 0.3, 0.9])
def test_intervals_cover_the_mean_with_a_few_large_clusters(alike: float) -> None:
    """As in MQuAKE, where 501 edits have up to 49 items each; with ``clusters - 1`` degrees of freedom, 92% do."""
    generator, covered, by_number = rng(), 0, 0
    counts = np.array([49, 36, 36, 30, 28, 18, 15, 14, *[2] * 80, *[1] * 410], dtype="float64")
    of = np.repeat(np.arange(len(counts)), counts.astype(int))
    for _ in range(WORLDS):
        shared = math.sqrt(alike) * generator.normal(size=len(counts))[of]
        values = shared + math.sqrt(1 - alike) * generator.normal(size=len(of))
        sample = Sample(np.bincount(of, values, len(counts))[None], counts)
        found = interval(sample)
        covered += found.low <= 0 <= found.high
        by_number += abs(sample.mean) <= stats.norm.ppf(0.975) * math.sqrt(sample.variance)
    assert 0.93 <= covered / WORLDS <= 0.985
    assert by_number < covered


@pytest.mark.parametrize("large", [2, 3, 5])
def test_intervals_cover_the_mean_where_two_to_five_clusters_have_most_items(large: int) -> None:
    """99%, 93% and 93% do; with as many degrees of freedom as there are large clusters, 83%, 89% and 92% would."""
    counts = np.array([100] * large + [1] * 30, dtype="float64")
    generator = rng()
    samples = [Sample((counts * generator.normal(size=len(counts)))[None], counts) for _ in range(WORLDS)]
    covered = np.mean([found.low <= 0 <= found.high for found in map(interval, samples)])
    assert covered >= 0.92


@given(sizes=st.lists(st.integers(1, 60), min_size=2, max_size=30))
def test_the_degrees_of_freedom_of_clusters_are_those_of_their_residuals(sizes: list[int]) -> None:
    share = np.array(sizes) / sum(sizes)
    squares = np.linalg.matrix_power(np.diag(share) - np.outer(share, share), 2)
    expected = np.trace(squares) ** 2 / np.trace(squares @ squares)
    found = Sample(np.zeros((1, len(sizes))), np.array(sizes, "float64")).cluster_freedom
    assert found == pytest.approx(expected, rel=1e-6)
    assert 1 - 1e-9 <= found <= len(sizes) - 1 + 1e-9
    equal = Sample(np.zeros((1, len(sizes))), np.full(len(sizes), 3.0)).cluster_freedom
    assert equal == pytest.approx(len(sizes) - 1)
    most = Sample(np.zeros((1, len(sizes))), np.array([*sizes[1:], 1e12]))
    assert most.cluster_freedom == pytest.approx(1)


def crossed_bootstrap(sample: Sample, generator: np.random.Generator, resamples: int = 299) -> np.ndarray:
    """The bounds of the 95% percentile interval of Owen's pigeonhole bootstrap."""
    seeds, clusters = sample.sums.shape
    drawn = [generator.multinomial(n, np.full(n, 1 / n), resamples) for n in (seeds, clusters)]
    means = ((drawn[0] @ sample.sums) * drawn[1]).sum(axis=1) / (seeds * (drawn[1] @ sample.counts))
    return np.quantile(means, [0.025, 0.975])


def test_intervals_of_other_kinds_are_too_narrow() -> None:
    """Over items instead of clusters; over clusters, for the seeds as they are; a bootstrap of both."""
    generator, covered = rng(), {"items": 0, "clusters": 0, "bootstrap": 0, "ours": 0}
    for _ in range(WORLDS):
        [sample], truth = answers(generator, 1, 3, 300, between_seeds=0.2)
        found = interval(sample)
        averaged = interval(Sample(sample.sums.mean(axis=0, keepdims=True), sample.counts))
        low, high = crossed_bootstrap(sample, generator)
        covered["ours"] += found.low <= truth <= found.high
        covered["clusters"] += averaged.low <= truth <= averaged.high
        covered["bootstrap"] += low <= truth <= high
        values = np.repeat(generator.normal(0, 1, 60), 5) + generator.normal(0, 1, 300)
        alone = interval(Sample(values[None], np.ones(300)))
        covered["items"] += alone.low <= 0 <= alone.high
    share = {kind: count / WORLDS for kind, count in covered.items()}
    assert share["ours"] >= 0.91
    assert share["bootstrap"] < share["ours"] - 0.03
    assert max(share["clusters"], share["items"]) < 0.85


@pytest.mark.parametrize(("methods", "worlds"), [(3, 500), (5, 300), (7, 200), (9, 200)])
@pytest.mark.parametrize(("n_seeds", "between_seeds"), [(1, 0.0), (3, 0.05)])
@pytest.mark.slow
def test_equal_methods_are_told_from_the_best_in_at_most_6_of_100_tables(
    methods: int, worlds: int, n_seeds: int, between_seeds: float
) -> None:
    generator, told = rng(), 0
    for _ in range(worlds):
        samples, _ = answers(generator, methods, n_seeds, 200, between_seeds=between_seeds)
        best = max(range(methods), key=lambda i: samples[i].mean)
        pairs = list(itertools.combinations(range(methods), 2))
        differences = [Sample(samples[i].sums - samples[j].sums, samples[i].counts) for i, j in pairs]
        corrected = holm([difference_p(difference) for difference in differences])
        told += any(best in pair and p <= 0.05 for pair, p in zip(pairs, corrected, strict=True))
    assert told / worlds <= 0.06


@pytest.mark.parametrize("alpha", [0.05, 0.1])
def test_tests_reject_no_more_often_than_they_may(alpha: float) -> None:
    generator = rng()
    rejected = {"t": 0, "bootstrap": 0}
    for _ in range(WORLDS):
        sample = clustered(generator, 60)
        rejected["t"] += difference_p(sample) <= alpha
        rejected["bootstrap"] += paired_bootstrap_p(sample, generator, 499) <= alpha
    assert abs(rejected["t"] / WORLDS - alpha) < 0.02
    assert abs(rejected["bootstrap"] / WORLDS - alpha) < 0.02


def test_tests_find_what_is_there() -> None:
    sample = clustered(rng(), 200, shift=1.0)
    assert difference_p(sample) < 0.001
    assert paired_bootstrap_p(sample, rng()) < 0.001
    assert paired_bootstrap_p(Sample(-sample.sums, sample.counts), rng()) > 0.999


def test_a_p_value_is_below_5_percent_where_the_interval_leaves_out_zero() -> None:
    generator = rng()
    for _ in range(200):
        sample = clustered(generator, 20, shift=0.4)
        found = interval(sample)
        assert (difference_p(sample) < 0.05) == (found.low > 0 or found.high < 0)


def test_with_one_seed_and_items_alone_it_is_the_paired_t_test() -> None:
    values = rng().normal(0.2, 1, 30)
    assert difference_p(one_seed(pd.Series(values))) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_the_variance_of_two_crossed_samples_by_hand() -> None:
    sample = Sample(np.array([[1.0, 0.0, 2.0], [3.0, 2.0, 1.0]]), np.ones(3))
    of_clusters, of_seeds = np.array([2.0, 1.0, 1.5]), np.array([1.0, 2.0])
    parts = of_clusters.var(ddof=1) / 3, of_seeds.var(ddof=1) / 2
    assert sample.parts == pytest.approx(parts)
    assert sample.variance == pytest.approx(sum(parts))
    assert sample.degrees_of_freedom == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 1))


def test_where_nothing_varies_the_interval_still_has_a_width() -> None:
    same = one_seed(pd.Series([0.0] * 100))
    found = interval(same)
    assert found.high == -found.low == pytest.approx(1 - 0.025**0.01)
    assert difference_p(same) == 1.0
    third = Sample(np.full((3, 100), 1 / 3), same.counts)
    assert interval(third).high - interval(third).mean == pytest.approx(found.high), "rounding is no variance"
    everywhere = Sample(same.sums + 1, same.counts)
    assert difference_p(everywhere) < 1e-9, "one method is right on every item and the other on none"
    assert interval(everywhere).low > 0.9


def test_without_two_units_there_is_no_telling() -> None:
    one = one_seed(pd.Series([1.0, 0.0]), ["a", "a"])
    assert one.mean == 0.5
    assert math.isnan(interval(one).low)
    assert math.isnan(difference_p(one))
    assert math.isnan(paired_bootstrap_p(one, rng()))
    assert math.isnan(seed_interval([0.5]).low)
    assert math.isnan(one_seed(pd.Series([], dtype=float)).mean)
    assert math.isnan(difference_p(one_seed(pd.Series([], dtype=float))))


def test_the_same_generator_gives_the_same_numbers() -> None:
    sample = clustered(rng(), 50)
    assert paired_bootstrap_p(sample, rng(1)) == paired_bootstrap_p(sample, rng(1))


def frame(seeds: list[int], items: str, clusters: str, values: list[float]) -> pd.DataFrame:
    return by_seed(pd.DataFrame({"seed": seeds, "item": list(items), "cluster": list(clusters), "value": values}))


def test_pairs_are_matched_by_item_and_by_seed() -> None:
    ours = frame([1, 1, 1, 2, 2, 2], "abcabc", "xxyxxy", [1.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    base = frame([EVERY_SEED] * 3, "bad", "xxy", [0.0, 0.25, 1.0])
    sample = paired_sample(ours, base)
    assert sample.sums.tolist() == [[1.75], [0.75]], "no seed changes the base, which goes with both"
    single = frame([1, 1, 1], "bad", "xxy", [0.0, 0.25, 1.0])
    assert paired_sample(ours, single).sums.tolist() == [[1.75]], "a method of which other seeds failed does not"
    assert sample.counts.tolist() == [2.0]
    other = frame([2, 2, 3, 3], "abab", "xxxx", [0.0, 0.0, 1.0, 1.0])
    assert paired_sample(ours, other).sums.tolist() == [[1.0]], "seed 2 is the one that both have"
    assert paired_sample(ours, other, ratio=2.0).sums.tolist() == [[1.0]]
    assert paired_sample(other, ours, ratio=2.0).sums.tolist() == [[-2.0]]


def test_equal_scores_may_differ_elsewhere_but_equal_models_do_not() -> None:
    zeros = frame([1] * 16, "abcdefghijklmnop", "abcdefghijklmnop", [0.0] * 16)
    assert interval(Sample.of(zeros)).high == pytest.approx(1 - 0.025 ** (1 / 16)), "no case seen among 16"
    assert interval(Sample.of(zeros, bounded=False)).high == 0, "a divergence that is 0 everywhere"
    assert interval(paired_sample(zeros, zeros, bounded=False)).high == 0


def test_a_seed_that_lacks_items_is_left_out() -> None:
    assert list(frame([1, 1, 2], "aba", "xyx", [1.0, 0.0, 1.0]).columns) == [1]


def test_the_variance_is_that_of_the_mean_when_every_item_stands_alone() -> None:
    values = pd.Series(rng().normal(size=40))
    assert one_seed(values).variance == pytest.approx(values.var(ddof=1) / 40)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_step_down_formula(p_values: list[float]) -> None:
    m, running, expected = len(p_values), 0.0, [0.0] * len(p_values)
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        running = max(running, min(1.0, (m - rank) * p_values[i]))
        expected[i] = running
    assert holm(p_values) == pytest.approx(expected)
    assert holm([*p_values, math.nan])[:-1] == pytest.approx(expected)


@pytest.mark.parametrize("repetitions", [0, 5])
def test_variance_components_are_found_on_average(repetitions: float) -> None:
    """Simulated crossed layouts of known variances, and of no difference between groups."""
    rng = np.random.default_rng(4)

    def layout(groups: int, size: int, between: float) -> np.ndarray:
        of_groups, of_repetitions = rng.normal(0, between, (groups, 1)), rng.normal(0, repetitions, (1, size))
        return of_groups + of_repetitions + rng.normal(0, 2, (groups, size))

    found = [variance_components(layout(6, 4, 3)) for _ in range(4000)]
    assert np.mean([f.within for f in found]) == pytest.approx(4 + repetitions**2, rel=0.04)
    assert np.mean([f.between for f in found]) == pytest.approx(9, rel=0.05)
    alike = [variance_components(layout(3, 3, 0)) for _ in range(4000)]
    assert np.mean([f.p < 0.05 for f in alike]) == pytest.approx(0.05, abs=0.012)
    assert np.mean([f.between == 0 for f in alike]) > 0.4


def test_variance_components_by_hand() -> None:
    """Groups and repetitions that add up; a residual of 1 in each of four cells, on one degree of freedom."""
    added = variance_components([[1.0, 2.0], [3.0, 4.0]])
    assert (added.within, added.between) == (0.5, 2)
    assert math.isnan(added.p)
    assert variance_components([[1.0, 3.0], [6.0, 4.0]]).between == pytest.approx(9 / 2 - 4 / 2)
    with pytest.raises(ValueError, match="two groups of two"):
        variance_components([[1.0, 2.0]])
