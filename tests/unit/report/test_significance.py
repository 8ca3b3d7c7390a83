"""Intervals and p-values of the main table: over clusters, corrected for their number, the same in every run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.unit.report.frames import HEADLINE, main_table, plain, results, scored

N = 100


def table(values: dict[str, list[float]], items_of_a_cluster: int = 1) -> pd.DataFrame:
    """The main table, by method, of what each of them scores on the items."""
    runs = [(plain("clutrr", sum(each) / N, method), each) for method, each in values.items()]
    scores = scored(*runs)
    scores["cluster"] = (scores["item"].astype(int) // items_of_a_cluster).astype(str)
    return main_table(results(*(run for run, _ in runs)), HEADLINE, scores).set_index("method")


def first(n: int) -> list[float]:
    """So many of the first items are right."""
    return [1.0] * n + [0.0] * (N - n)


def test_p_values_are_holms_over_the_pairs_of_methods_of_a_model() -> None:
    found = table({"lora": first(90), "red": first(86), "full": first(84)})["clutrr.p_best"]
    p = {n: stats.ttest_1samp(first(n), 0).pvalue for n in (2, 4, 6)}  # so many items differ
    assert found["full"] == pytest.approx(3 * p[6]), "the smallest of three pairs, red and full included"
    assert found["red"] == pytest.approx(2 * p[4])


def test_items_of_a_cluster_count_as_one() -> None:
    alone, together = (table({"lora": first(60), "red": first(50)}, size) for size in (1, 10))
    for method in ("lora", "red"):
        widths = [frame["clutrr.percent_high"] - frame["clutrr.percent_low"] for frame in (alone, together)]
        assert widths[1][method] > 2 * widths[0][method]
    assert alone.loc["red", "clutrr.p_best"] < 0.01
    assert together.loc["red", "clutrr.p_best"] == pytest.approx(stats.ttest_1samp([1.0] + [0.0] * 9, 0).pvalue)


def test_seeds_that_differ_widen_the_interval() -> None:
    runs = [(plain("clutrr", n / N, seed=seed), first(n)) for seed, n in enumerate((50, 60, 70))]
    steady = [(plain("clutrr", 0.6, "red", seed=seed), first(60)) for seed in range(3)]
    frame = main_table(results(*(run for run, _ in [*runs, *steady])), HEADLINE, scored(*runs, *steady))
    frame = frame.set_index("method")
    half = (frame["clutrr.percent_high"] - frame["clutrr.percent_low"]) / 2
    averaged = np.mean([first(50), first(60), first(70)], axis=0)
    over_items, over_seeds = averaged.var(ddof=1) / N, 0.1**2 / 3
    freedom = (over_items + over_seeds) ** 2 / (over_items**2 / (N - 1) + over_seeds**2 / 2)
    assert half["red"] == pytest.approx(stats.t.ppf(0.975, N - 1) * 100 * (0.24 / (N - 1)) ** 0.5)
    assert half["lora"] == pytest.approx(stats.t.ppf(0.975, freedom) * 100 * (over_items + over_seeds) ** 0.5)


def test_a_table_is_the_same_every_time() -> None:
    values = {method: [i * step % 101 / 101 for i in range(N)] for method, step in (("lora", 7), ("red", 11))}
    pd.testing.assert_frame_equal(table(values), table(values))
