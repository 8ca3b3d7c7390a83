"""Overlap of rankings, against counting and simulation."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from lofit.rankings.overlap import (
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
    assert (table["p_value"] < 0.05).mean() < 0.05
    assert table["spearman"].mean() == pytest.approx(0, abs=0.01)


def test_table_of_two_rankings() -> None:
    (row,) = overlap_table({"a": FIRST, "b": SECOND}, [2]).to_dict("records")
    assert (row["first"], row["second"], row["k"], row["shared"]) == ("a", "b", 2, 1)
    assert row["jaccard"] == 1 / 3
    assert row["p_value"] == pytest.approx(5 / 6)
    assert row["spearman"] == pytest.approx(0.0)


def test_correlation_of_orders() -> None:
    assert rank_correlation(FIRST, FIRST) == pytest.approx(1)
    assert rank_correlation(FIRST, rank_heads(np.array([[1.0, 2.0], [3.0, 4.0]]))) == pytest.approx(-1)
    assert math.isnan(rank_correlation(FIRST, rank_heads(np.zeros((2, 2)))))
