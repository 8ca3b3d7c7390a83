"""Overlap of rankings, against counting and simulation."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lofit.rankings.overlap import (
    emd,
    expected_emd,
    expected_jaccard,
    jaccard,
    overlap_p_value,
    overlap_table,
    rank_correlation,
    shared_heads,
)
from lofit.rankings.ranking import rank_heads

FIRST = rank_heads(np.array([[4.0, 3.0], [2.0, 1.0]]))
SECOND = rank_heads(np.array([[3.0, 1.0], [4.0, 2.0]]))


def test_jaccard_of_the_best_heads() -> None:
    assert jaccard(shared_heads(FIRST, FIRST, 2), 2) == 1
    assert jaccard(shared_heads(FIRST, SECOND, 1), 1) == 0  # (0, 0) against (1, 0)
    assert jaccard(shared_heads(FIRST, SECOND, 2), 2) == 1 / 3  # (0, 0), (0, 1) against (1, 0), (0, 0)
    assert jaccard(shared_heads(FIRST, SECOND, 4), 4) == 1


@pytest.mark.parametrize(("n", "k"), [(5, 2), (6, 3), (6, 5), (4, 4), (7, 1)])
def test_chance_equals_counting_all_choices(n: int, k: int) -> None:
    choices = [set(choice) for choice in combinations(range(n), k)]
    fixed = choices[0]
    indices = [len(fixed & other) / len(fixed | other) for other in choices]
    assert expected_jaccard(n, k) == pytest.approx(sum(indices) / len(indices))
    for shared in range(k + 1):
        expected = sum(len(fixed & other) >= shared for other in choices) / len(choices)
        assert overlap_p_value(n, k, shared) == pytest.approx(expected)


def test_random_rankings_overlap_as_expected() -> None:
    rng = np.random.default_rng(0)
    rankings = {str(i): rank_heads(rng.random((30, 9))) for i in range(40)}
    table = overlap_table(rankings, [27])
    assert len(table) == 40 * 39 / 2
    assert table["jaccard"].mean() == pytest.approx(expected_jaccard(270, 27), abs=0.005)
    assert table["overlap"].mean() == pytest.approx(table["expected_overlap"][0], abs=0.005)
    assert table["expected_overlap"].tolist() == [27 / 270] * len(table)
    assert table["emd"].mean() == pytest.approx(table["expected_emd"][0], abs=0.1)
    assert (table["p_value"] < 0.05).mean() < 0.05
    assert table["spearman"].mean() == pytest.approx(0, abs=0.01)


def test_table_of_two_rankings() -> None:
    (row,) = overlap_table({"a": FIRST, "b": SECOND}, [2]).to_dict("records")
    assert (row["first"], row["second"], row["k"], row["shared"]) == ("a", "b", 2, 1)
    assert (row["overlap"], row["expected_overlap"]) == (1 / 2, 2 / 4)
    assert row["jaccard"] == 1 / 3
    assert row["emd"] == 0.5  # layers 0, 0 against 1, 0: one head of two moves by one layer
    assert row["expected_emd"] == expected_emd((2, 2), 2)
    assert row["p_value"] == pytest.approx(5 / 6)
    assert row["spearman"] == pytest.approx(0.0)


def of_layers(*layers: int, n_layers: int = 9, n_heads: int = 3) -> pd.DataFrame:
    """A ranking whose best heads are in the given layers."""
    scores, given = np.zeros((n_layers, n_heads)), Counter(layers)
    for layer, number in given.items():
        scores[layer, :number] = 1.0
    return rank_heads(scores)


def test_earth_movers_distance_by_hand() -> None:
    assert emd(of_layers(3), of_layers(5), 1) == 2
    assert emd(of_layers(3, 3, 3), of_layers(5, 5, 5), 3) == 2
    assert emd(of_layers(0, 8), of_layers(4, 4), 2) == 4
    assert emd(of_layers(1, 2, 3), of_layers(2, 3, 4), 3) == 1
    assert emd(of_layers(1, 2), of_layers(2, 1), 2) == 0  # other heads of the same layers


def test_earth_movers_distance_is_scipys_on_the_layers_of_the_best_heads() -> None:
    rng = np.random.default_rng(0)
    for k in (1, 5, 20):
        one, other = (rank_heads(rng.random((12, 4))) for _ in range(2))
        layers = [frame["layer"][:k] for frame in (one, other)]
        assert emd(one, other, k) == emd(other, one, k) == stats.wasserstein_distance(*layers)


@pytest.mark.parametrize(("heads", "k"), [((2, 2), 1), ((2, 2, 2), 2), ((1, 3, 2), 3), ((2, 2), 4)])
def test_the_distance_of_random_heads_equals_counting_all_choices(heads: tuple[int, ...], k: int) -> None:
    of_head = [layer for layer, number in enumerate(heads) for _ in range(number)]
    choices = list(combinations(of_head, k))
    mean = np.mean([stats.wasserstein_distance(one, other) for one in choices for other in choices])
    assert expected_emd(heads, k) == pytest.approx(mean, abs=0.02)
    first = expected_emd(heads, k)
    expected_emd.cache_clear()
    assert expected_emd(heads, k) == first, "its generator has a seed"


def test_the_distance_of_random_heads_equals_a_simulation_with_rankings() -> None:
    rng = np.random.default_rng(1)
    found = [emd(*(rank_heads(rng.random((16, 8))) for _ in range(2)), 13) for _ in range(600)]
    assert expected_emd((8,) * 16, 13) == pytest.approx(np.mean(found), abs=4 * np.std(found) / 600**0.5)


def test_correlation_of_orders() -> None:
    assert rank_correlation(FIRST, FIRST) == pytest.approx(1)
    assert rank_correlation(FIRST, rank_heads(np.array([[1.0, 2.0], [3.0, 4.0]]))) == pytest.approx(-1)
    assert math.isnan(rank_correlation(FIRST, rank_heads(np.zeros((2, 2)))))
