"""Write the output of an experiment: a table, or a figure with the numbers behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from lofit.errors import ReportError
from lofit.plan.table import RunTable
from lofit.rankings.ranking import top_heads
from lofit.report.cells import aggregate, complete_rows, folds_by_task, headline_rows
from lofit.report.figures import Axis, draw_curves, draw_layers, draw_pareto
from lofit.report.items import item_interval, item_scores
from lofit.report.outputs import Output
from lofit.report.overlap import joined, why_lost
from lofit.report.parts import read_part
from lofit.report.paths import headline, items_path
from lofit.report.tables import main_table, write_table
from lofit.report.variance import variance_table, write_variance
from lofit.stats import by_seed


def write(table: RunTable, output: Output) -> None:
    """Write the table or figure of the experiment ``output.name``."""
    kind = table.config.experiment(output.name).kind
    assert kind
    _WRITERS[kind](table, output)


def arm_rows(table: RunTable, name: str) -> pd.DataFrame:
    """Return the results of an experiment's runs, with ``variant`` (the arm) and ``x`` (its point on the axis).

    Results are those on the task that a run was fitted on, under the first protocol.

    Raises:
        ReportError: there are none.
    """
    protocol = table.config.protocols[0]
    results, _ = read_part(table, name)
    arms = pd.DataFrame(
        [{"run_id": arm.fit.id, "variant": arm.label, "x": arm.x} for arm in table.experiments[name]]
    ).drop_duplicates()
    rows = arms.merge(results[results["task"].isin(headline(table, protocol))], on="run_id")
    if rows.empty:
        raise ReportError(f"experiments.{name}: none of its runs is scored under {protocol}; put another one first")
    return rows


def _table(table: RunTable, output: Output) -> None:
    rows = arm_rows(table, output.name)
    chosen = {task: metric for task, metric in headline(table).items() if task in set(rows["task"])}
    frame = main_table(rows, chosen, pd.read_parquet(items_path(table, output.name)))
    write_table(frame, table.drawn / output.id, title=output.title)


def points(rows: pd.DataFrame, metrics: Mapping[str, str], items: pd.DataFrame) -> pd.DataFrame:
    """Return the points of a curve or trade-off: one row per model, task, arm and point on the axis.

    Args:
        rows: as :func:`arm_rows` returns them.
        metrics: task to headline metric.
        items: as ``collect_items`` writes them.

    Returns:
        ``model``, ``task``, ``arm``, ``x``, ``value`` with ``low`` and ``high`` (the 95% confidence interval over
        clusters of test items and over seeds; all fractions), ``n_seeds``, ``n_items``, ``status``, ``note``,
        ``trained_params`` and ``seconds`` (activations, localization and fit). The last two are means over the runs of
        complete seeds.
    """
    rows = headline_rows(rows, metrics)
    folds = folds_by_task(rows)
    keys = ["model", "task", "variant", "x"]
    scores = item_scores(complete_rows(rows, keys), items)
    by_cell = {_cell_key(key): group for key, group in scores.groupby(keys, sort=False, dropna=False)}
    records = []
    for key, group in rows.groupby(keys, sort=False, dropna=False):
        cell = aggregate(group, folds[str(key[1])], {int(seed) for seed in group["seed"]})
        record: dict[str, Any] = dict(zip(("model", "task", "arm", "x"), key, strict=True))
        record |= {"value": cell.value, "low": np.nan, "high": np.nan, "n_seeds": cell.n_seeds, "n_items": 0}
        found = by_cell.get(_cell_key(key))
        if found is not None and cell.n_seeds:
            interval = item_interval(by_seed(found), cell.value)
            record |= {"low": interval.low, "high": interval.high, "n_items": found["item"].nunique()}
        counted = group[group["seed"].isin(cell.by_seed)]
        seconds = counted[["activations_seconds", "localize_seconds", "fit_seconds"]].astype("float64").sum(axis=1)
        record |= {"status": cell.status, "note": cell.note, "seconds": float(seconds.mean())}
        record["trained_params"] = float(counted["trained_params"].astype("float64").mean())
        records.append(record)
    return pd.DataFrame(records)


def _cell_key(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a group key that can be looked up in a dict: NaN, which is not equal to itself, is replaced by None."""
    return tuple(None if pd.isna(part) else part for part in key)


def _points_of(table: RunTable, name: str) -> tuple[pd.DataFrame, dict[str, str]]:
    metrics = headline(table)
    return points(arm_rows(table, name), metrics, pd.read_parquet(items_path(table, name))), metrics


def _curve(table: RunTable, output: Output) -> None:
    frame, metrics = _points_of(table, output.name)
    spec = table.config.experiment(output.name)
    axis: Axis = "n_train" if spec.n_train else "heads" if spec.counts_heads else "share"
    draw_curves(frame, table.drawn / output.id, title=output.title, axis=axis, metrics=metrics)


def _pareto(table: RunTable, output: Output) -> None:
    frame, _ = _points_of(table, output.name)
    draw_pareto(frame, table.drawn / output.id, title=output.title)


def layer_counts(table: RunTable, name: str) -> pd.DataFrame:
    """Return the share of each layer among the selected heads, averaged over the rankings of all folds and seeds.

    Returns:
        ``model``, ``task``, ``arm``, ``layer``, ``share`` (a fraction; NaN if no ranking succeeded), ``n_rankings``,
        ``n_seeds`` and ``n_folds`` (numbers for the rankings that succeeded), and ``note`` (which failed and why; empty
        if none did).
    """
    records = []
    for arm in table.experiments[name]:
        ranking = arm.fit.ranking
        assert ranking, "the arms of such an experiment select heads"
        data, reason = ranking.data, why_lost(table, ranking)
        file = table.folder(ranking) / "heads.parquet"
        layers = [] if reason else [layer for layer, _ in top_heads(file, arm.fit.k[-1], bottom=arm.fit.bottom)]
        row: dict[str, Any] = {"model": arm.fit.model, "task": arm.fit.data.task, "arm": arm.label}
        row |= {"ranking": ranking.id, "note": f"seed {data.seed} fold {data.fold} failed: {reason}" if reason else ""}
        row |= {} if reason else {"seed": data.seed, "fold": data.fold}
        for layer in range(table.config.model_entry(arm.fit.model).n_layers):
            share = layers.count(layer) / len(layers) if layers else np.nan
            records.append(row | {"layer": layer, "share": share})
    keys = ["model", "task", "arm", "layer"]
    frame = pd.DataFrame(records, columns=[*keys, "ranking", "share", "seed", "fold", "note"])
    # Arms may share a ranking: heads selected on a task with one fold are used for all folds of another task.
    grouped = frame.drop_duplicates([*keys, "ranking"]).groupby(keys, sort=False)
    return grouped.agg(
        share=("share", "mean"),
        n_rankings=("share", "count"),
        n_seeds=("seed", "nunique"),
        n_folds=("fold", "nunique"),
        note=("note", joined),
    ).reset_index()


def _variance(table: RunTable, output: Output) -> None:
    rows = headline_rows(arm_rows(table, output.name), headline(table))
    frame = variance_table(rows, pd.read_parquet(items_path(table, output.name)))
    write_variance(frame, table.drawn / output.id, title=output.title)


def _layers(table: RunTable, output: Output) -> None:
    draw_layers(layer_counts(table, output.name), table.drawn / output.id, title=output.title)


_WRITERS: dict[str, Callable[[RunTable, Output], None]] = {
    "table": _table,
    "curve": _curve,
    "layers": _layers,
    "pareto": _pareto,
    "variance": _variance,
}
