"""Paired differences: by hand, and whether their intervals cover what they claim to."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lofit.report.differences import (
    Difference,
    mean_of,
    paired,
    retention_table,
    suite_table,
)
from lofit.report.retention import write_retention
from lofit.report.suite import write_suite
from lofit.stats import EVERY_SEED
from tests.unit.report.frames import HEADLINE, plain, results, row, scored


def table(runs: list[tuple[dict[str, Any], list[float]]], make: Any = suite_table, **options: Any) -> pd.DataFrame:
    frame = scored(*runs)
    return make(results(*(run for run, _ in runs)), frame, **({"headline": HEADLINE} | options))


def alone(frame: pd.DataFrame) -> pd.DataFrame:
    """Every item is a cluster, and no seed changes the scores if none is given."""
    return frame.assign(cluster=frame["item"], seed=frame.get("seed", EVERY_SEED))


def test_a_paired_difference_by_hand() -> None:
    left = pd.DataFrame({"item": list("abcd"), "value": [1.0, 1, 0, 1]})
    right = pd.DataFrame({"item": list("bcda"), "value": [0.0, 0, 1, 1]})
    found = paired(alone(left), alone(right))
    change = np.array([0, 1, 0, 0])
    assert found.value == 0.25
    assert found.variance == pytest.approx(change.var(ddof=1) / 4)
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, 3) * math.sqrt(found.variance))


def test_seeds_are_averaged_within_an_item_before_items_are_compared() -> None:
    two = pd.DataFrame({"item": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1], "value": [1.0, 0, 1, 1]})
    one = pd.DataFrame({"item": ["a", "b"], "value": [0.0, 0]})
    assert paired(alone(two), alone(one)).value == 0.75
    assert paired(alone(two), alone(one)).n_items == 2


def test_means_of_independent_differences() -> None:
    found = mean_of([Difference(0.2, 0.01, 10), Difference(0.4, 0.03, 5)])
    assert (found.value, found.variance, found.n_items) == (pytest.approx(0.3), pytest.approx(0.01), 15)
    few, many = Difference(0.2, 0.01, 10, freedom=2), Difference(0.4, 0.03, 5, freedom=30)
    assert mean_of([few, many]).freedom == pytest.approx(0.04**2 / (0.01**2 / 2 + 0.03**2 / 30))
    assert math.isnan(mean_of([Difference(0.2, 0.01, 10), Difference(math.nan, math.nan, 0)]).value)
    assert math.isnan(mean_of([]).value)


def test_the_suite_averages_tasks_and_folds_alike() -> None:
    runs = []
    for method, right in (("base", 0), ("full", 4), ("lora", 2)):
        runs.append((plain("clutrr", 0.0, method), [1.0] * right + [0.0] * (4 - right)))
        for fold, extra in ((0, 0), (1, 1)):
            values = [1.0] * min(right + extra, 4) + [0.0] * max(4 - right - extra, 0)
            runs.append((plain("truthfulqa", 0.0, method, fold=fold, eval_fold=fold), values))
    frame = table(runs).set_index("method")
    # clutrr: 2 of 4 more than base; truthfulqa: 2 of 4 in fold 0 and 3 - 1 in fold 1
    assert frame["base"]["lora"] == pytest.approx(50)
    assert frame["clutrr.base"]["lora"] == frame["truthfulqa.base"]["lora"] == pytest.approx(50)
    assert frame["truthfulqa.full"]["lora"] == pytest.approx(-100 * (0.5 + 0.25) / 2)
    assert frame["full"]["full"] == 0
    assert frame["tasks"]["lora"] == 2
    assert "base" not in frame.index


@pytest.mark.parametrize("value", [None, 0.5])
def test_a_method_without_one_of_the_tasks_has_no_average(value: float | None) -> None:
    """Failed there, or never run there: an average over the others would be of something else."""
    runs = [(plain(task, 0.0, "base"), [0.0, 1.0]) for task in HEADLINE]
    runs.append((plain("clutrr", 1.0), [1.0, 1.0]))
    if value is None:
        runs.append((plain("truthfulqa", None), []))
    frame = table(runs).set_index("method")
    assert math.isnan(frame["base"]["lora"])
    assert frame["clutrr.base"]["lora"] == 50
    assert frame["tasks"]["lora"] == 1
    why = "no run" if value else "seed 0 failed: out of memory"
    assert frame["note"]["lora"] == f"truthfulqa: {why}; full: no run"


def test_what_failed_everywhere_stays_in_the_suite_with_its_reason(tmp_path: Path) -> None:
    runs = [(plain("clutrr", 0.0, "base"), [0.0, 1.0]), (plain("clutrr", None, "full"), [])]
    runs += [(plain("clutrr", None, "dora"), []), (plain("clutrr", 1.0, seed=1), [1.0, 1.0])]
    runs.append((plain("clutrr", None, seed=2), []))
    frame = table(runs, headline={"clutrr": "exact_match"})
    lines = frame.set_index("method")
    assert list(lines.index) == ["full", "dora", "lora"]
    assert lines["tasks"].tolist() == [0, 0, 1]
    assert lines["note"]["full"] == "clutrr: seed 0 failed: out of memory"
    assert lines["note"]["dora"] == f"{lines['note']['full']}; full: {lines['note']['full']}"
    assert lines["note"]["lora"].startswith("clutrr: 1 of 2 seeds (seed 2 failed: out of memory); full: ")
    assert lines["base"]["lora"] == 50
    assert math.isnan(lines["full"]["lora"])
    write_suite(frame, tmp_path / "suite", "Suite")
    text = (tmp_path / "suite.md").read_text()
    assert "| dora     | 0       | - " in text
    assert re.search(r"^\| tiny    \| lora .*\]† +\| - +\|$", text, re.MULTILINE), "one seed of two"
    assert (
        "† some seeds are left out, - no average: a run of the method, or of what it is compared with, failed" in text
    )
    assert pd.read_csv(tmp_path / "suite.csv")["note"].tolist() == frame["note"].tolist()


def test_a_seed_without_one_of_the_folds_is_in_no_average() -> None:
    runs = [(plain("clutrr", 0.0, "base", fold=fold, eval_fold=fold), [0.0, 0.0]) for fold in (0, 1)]
    for fold, seed, right in ((0, 0, 1.0), (1, 0, 1.0), (0, 1, 0.0)):
        runs.append((plain("clutrr", right, fold=fold, eval_fold=fold, seed=seed), [right, right]))
    runs.append((plain("clutrr", None, fold=1, eval_fold=1, seed=1), []))
    line = table(runs, headline={"clutrr": "exact_match"}).set_index("method").loc["lora"]
    assert line["base"] == 100
    assert line["base.partial"]


def test_transferred_heads_are_not_a_method_of_their_own() -> None:
    runs = [(plain("clutrr", 0.0, "base"), [0.0, 0.0]), (row("clutrr", 0.0), [1.0, 0.0])]
    runs.append((row("clutrr", 0.0, head_task="truthfulqa"), [1.0, 1.0]))
    frame = table(runs, headline={"clutrr": "exact_match"}).set_index("method")
    assert frame["base"].to_dict() == {"lofit (8 heads)": 50.0}


def test_retention_is_against_the_base_on_the_same_items(tmp_path: Path) -> None:
    def scored(method: str, task: str, on: str, metric: str) -> dict[str, Any]:
        return plain(task, 0.0, method) | {"eval_task": on, "metric": metric}

    runs = []
    for method, gain in (("base", 0.0), ("lora", 1.0)):
        for task in HEADLINE:
            runs.append((scored(method, task, "nq", "em"), [gain, 0.0, 1.0, 1.0]))
            runs.append((scored(method, task, "text", "ce"), [2.0 + gain, 2.0]))
    frame = table(runs, retention_table, headline={"nq": "em", "text": "ce"}, in_nats=["text"])
    frame = frame.set_index(["method", "fitted for", "scored on"])
    assert len(frame) == 4
    assert frame["change"]["lora", "clutrr", "nq"] == 25
    assert frame["score"]["lora", "clutrr", "nq"] == 75
    assert frame["change"]["lora", "truthfulqa", "text"] == 0.5
    assert frame["score"]["lora", "truthfulqa", "text"] == 2.5
    assert frame["metric"]["lora", "truthfulqa", "text"] == "ce (nats)"
    write_retention(frame.reset_index(), tmp_path / "retention", "Retention")
    assert "+25.00 [" in (tmp_path / "retention.md").read_text()


def test_items_of_another_task_are_one_sample_whichever_fold_was_trained_on() -> None:
    on_nq = {"eval_task": "nq", "metric": "em"}
    runs = []
    for fold in (0, 1):
        runs.append((plain("truthfulqa", 0.0, "base", fold=fold) | on_nq, [0.0, 1.0, 0.0, 1.0]))
        runs.append((plain("truthfulqa", 0.0, fold=fold) | on_nq, [0.0, 0.0, 0.0, 1.0]))
    both = table(runs, retention_table, headline={"nq": "em"}).iloc[0]
    one = table(runs[:2], retention_table, headline={"nq": "em"}).iloc[0]
    assert both["items"] == one["items"] == 4
    assert both["change.low"] == pytest.approx(one["change.low"])


def test_a_reference_does_not_differ_from_itself() -> None:
    runs = [(plain("clutrr", 0.0, method), [0.0, 1.0] * 5) for method in ("base", "full", "lora")]
    frame = table(runs, headline={"clutrr": "exact_match"}).set_index("method")
    assert frame.loc["full", ["full", "full.low", "full.high"]].tolist() == [0, 0, 0]
    assert frame["full.low"]["lora"] < 0 < frame["full.high"]["lora"]


def test_a_run_that_failed_is_a_row_with_its_reason(tmp_path: Path) -> None:
    runs = [(plain("clutrr", 0.0, "base") | {"eval_task": "nq", "metric": "em"}, [0.0, 1.0])]
    runs.append((plain("clutrr", None) | {"eval_task": "nq"}, []))
    frame = table(runs, retention_table, headline={"nq": "em"})
    assert frame["method"].tolist() == ["lora"]
    assert frame["note"].item() == "1 of 1 failed: out of memory"
    assert math.isnan(frame["score"].item())
    write_retention(frame, tmp_path / "retention", "Retention")
    assert "1 of 1 failed: out of memory |" in (tmp_path / "retention.md").read_text()


def test_a_seed_that_failed_is_told_and_a_score_without_a_base_is_kept() -> None:
    on_nq = {"eval_task": "nq", "metric": "em"}
    runs = [(plain("clutrr", None, "base") | {"eval_task": "nq"}, [])]
    runs += [(plain("clutrr", 0.0, seed=seed) | on_nq, [1.0, 0.0]) for seed in (0, 1)]
    runs += [(plain("clutrr", None, seed=2) | {"eval_task": "nq"}, [])]
    frame = table(runs, retention_table, headline={"nq": "em"}).set_index("method")
    assert frame.index.tolist() == ["base", "lora"], "one row each"
    assert frame["score"]["lora"] == 50
    assert math.isnan(frame["change"]["lora"])
    assert frame["note"].tolist() == ["1 of 1 failed: out of memory", "1 of 3 failed: out of memory"]


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Items of two tasks whose scores correlate between the methods: 95% intervals hold the true difference."""
    rng = np.random.default_rng(0)
    sizes = ((80, 0.5, 0.1), (150, 0.3, 0.2))
    truth = np.mean([0.9 * (base + gain) + 0.1 * (1 - base - gain) - base for _, base, gain in sizes])
    covered = 0
    for _ in range(2000):
        parts = []
        for n, base, gain in sizes:
            hardness = rng.random(n)
            left, right = (hardness < base + gain).astype(float), (hardness < base).astype(float)
            flipped = rng.random(n) < 0.1
            left = np.where(flipped, 1 - left, left)
            frames = [alone(pd.DataFrame({"item": range(n), "value": values})) for values in (left, right)]
            parts.append(paired(*frames))
        found = mean_of(parts)
        covered += abs(found.value - truth) <= found.half_width
    assert 0.93 <= covered / 2000 <= 0.97


@pytest.mark.parametrize(("make", "write"), [(suite_table, write_suite), (retention_table, write_retention)])
def test_a_base_model_alone_gives_tables_without_rows(tmp_path: Path, make: Any, write: Any) -> None:
    frame = table([(plain("clutrr", 0.0, "base"), [1.0, 0.0])], make)
    assert frame.empty
    write(frame, tmp_path / "found", "Title")
    assert (tmp_path / "found.csv").read_text().startswith("model,method,")
    assert "| model" in (tmp_path / "found.md").read_text()
