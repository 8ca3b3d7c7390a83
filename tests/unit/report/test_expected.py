from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from lofit.config import load_config
from lofit.expected import TRAINED, counterparts, published
from lofit.report.expected import our_mean
from lofit.runs import RunTable
from lofit.sources.catalog import load_catalog
from lofit.tasks import load_task

CONFIG = Path(__file__).parents[3] / "config"
SCORES = {
    ("a", 0, "mc1"): [1.0, 0.0],
    ("a", 1, "mc1"): [1.0, 1.0, 1.0, 0.0],
    ("a", 0, "mc2"): [0.5, 0.5],
    ("a", 1, "mc2"): [0.25, 0.75, 0.5, 0.5],
    ("b", 0, "exact_match"): [0.0, 1.0, 1.0, 1.0],
}


def frames(status: str = "ok") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Results and items of one method on a task of two folds and two metrics, and on one of one."""
    rows, items = [], []
    for (task, fold, metric), values in SCORES.items():
        where = {"run_id": f"{task}{fold}", "eval_task": task, "eval_fold": fold, "protocol": "paper", "metric": metric}
        rows.append(where | {"task": task, "value": sum(values) / len(values), "status": status})
        items += [where | {"item": str(i), "cluster": str(i), "value": value} for i, value in enumerate(values)]
    return pd.DataFrame(rows), pd.DataFrame(items)


def test_a_mean_weighs_metrics_and_folds_alike() -> None:
    found = our_mean(*frames(), ["a", "a", "b"], ["mc1", "mc2", "exact_match"])
    assert found.value == pytest.approx(((0.5 + 0.75) / 2 + (0.5 + 0.5) / 2 + 0.75) / 3)
    folds = [pd.Series([0.75, 0.25]), pd.Series([0.625, 0.875, 0.75, 0.25])]
    of_a = sum(fold.var() / len(fold) for fold in folds) / 4
    of_b = pd.Series(SCORES["b", 0, "exact_match"]).var() / 4
    assert found.variance == pytest.approx((2 / 3) ** 2 * of_a + (1 / 3) ** 2 * of_b)
    assert found.n_items == 2 + 4 + 4  # however many metrics


def test_a_failed_run_or_an_absent_metric_has_no_mean() -> None:
    assert math.isnan(our_mean(*frames("failed: out of memory"), ["b"], ["exact_match"]).value)
    assert math.isnan(our_mean(*frames(), ["b"], ["acc"]).value)


def test_published_values_name_what_exists_and_where_it_was_read() -> None:
    metrics = {"truthfulqa": {"mc1", "mc2"}}
    for row in published():
        assert row.source
        assert row.source_kind in ("primary", "secondary", "derived")
        assert len(row.tasks) == len(row.metrics) or row.metrics == (TRAINED,)
        for task, metric in zip(row.tasks, row.metrics, strict=False):
            assert metric in metrics.get(task, {load_task(task).headline})
        assert row.metrics == (TRAINED,) or 0 < row.value < 100
    assert {row.model for row in published()} - set(load_catalog()) == {"llama-2-7b-chat"}


def test_counterparts_have_the_model_the_method_and_all_tasks() -> None:
    table = RunTable(load_config(CONFIG / "paper.yaml"))
    pairs = counterparts(table)
    assert len(pairs) == 3 * 3 + 3
    for row, fits in pairs:
        assert {fit.model for fit in fits} == {row.model}
        assert set(row.tasks) <= {fit.data.task for fit in fits}
        assert len({fit.k for fit in fits}) == 1
    assert len(counterparts(RunTable(load_config(CONFIG / "modern.yaml")))) == 2 * 4 * 4
    assert not counterparts(RunTable(load_config(CONFIG / "laptop.yaml")))
