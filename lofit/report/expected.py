"""The table of published values and the corresponding values of this suite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from lofit.plan.published import TRAINED, Published, matching_runs
from lofit.plan.table import MAIN, RunTable
from lofit.report.differences import Difference, mean_of, mean_over, sum_of
from lofit.report.items import item_scores
from lofit.report.outputs import Output
from lofit.report.parts import read_part
from lofit.report.plain import write_plain_table
from lofit.report.tables import MISSING
from lofit.stats import Sample, by_seed

LEGEND = (
    "Percent, or numbers of parameters. The interval of the difference is over clusters of our test items and over "
    "our seeds; of the published value no uncertainty is known. Sources and how far each was checked stand in the CSV."
)


def write(table: RunTable, output: Output) -> None:
    """Write each published value that has a counterpart in this configuration, our value, and the difference."""
    protocol = table.config.protocols[0]
    collected: dict[str, tuple[pd.DataFrame, pd.DataFrame]] = {}
    records = []
    for row, fits in matching_runs(table):
        if row.artefact not in collected:
            collected[row.artefact] = read_part(table, row.artefact)
        results, items = collected[row.artefact]
        own = results["run_id"].isin([fit.id for fit in fits]) & (results["eval_task"] == results["task"])
        records.append(_record(row, results[own & (results["protocol"] == protocol)], items))
    frame = pd.DataFrame(records)
    write_plain_table(frame, _shown(frame), table.drawn / output.id, title=output.title, legend=LEGEND)


def our_mean(results: pd.DataFrame, items: pd.DataFrame, tasks: Sequence[str], metrics: Sequence[str]) -> Difference:
    """Return our value of a mean of metrics, as a fraction, with its variance over clusters and seeds.

    Scores are averaged over seeds for each item, and the folds of a task are averaged unweighted. Metrics of the same
    task use the same items.

    Args:
        results: results of the corresponding runs, as ``collect`` writes them.
        items: as ``collect_items`` writes them.
        tasks: the task of each metric.
        metrics: the metrics to average.

    Returns:
        The mean; NaN if a run failed or lacks a metric.
    """
    lost = Difference(math.nan, math.nan, 0)
    parts = []
    for task in dict.fromkeys(tasks):
        wanted = [metric for of, metric in zip(tasks, metrics, strict=True) if of == task]
        rows = results[results["task"] == task]
        if rows["status"].str.startswith("failed").any() or not set(wanted) <= set(rows["metric"]):
            return lost
        scores = item_scores(rows[rows["metric"].isin(wanted)], items)
        folds = []
        for _, group in scores.groupby("eval_fold"):
            folds.append(mean_over(Sample.of(by_seed(group))))
        share, mean = len(wanted) / len(metrics), mean_of(folds)
        parts.append(Difference(share * mean.value, share**2 * mean.variance, mean.n_items, mean.freedom))
    return sum_of(parts)


def _record(row: Published, results: pd.DataFrame, items: pd.DataFrame) -> dict[str, Any]:
    what = ", ".join(f"{task} {metric}" for task, metric in zip(row.tasks, row.metrics, strict=False)) or TRAINED
    heads = results["n_heads"].dropna().unique()
    method = f"{row.method} ({heads[0]} heads)" if row.artefact == MAIN and len(heads) else row.method
    record: dict[str, Any] = {"artefact": row.artefact, "model": row.model, "what": what, "method": method}
    record |= {"setting": row.setting, "published": row.value}
    if row.metrics == (TRAINED,):
        ours, half = float(results[TRAINED].astype("float64").mean()), math.nan
    else:
        found = our_mean(results, items, row.tasks, row.metrics)
        ours, half = 100 * found.value, 100 * found.half_width
    difference = ours - row.value
    record |= {"ours": ours, "difference": difference, "low": difference - half, "high": difference + half}
    failed = results.loc[results["status"] != "ok", "status"]
    record |= {"note": "; ".join(dict.fromkeys(failed)), "source": row.source}
    return record | {"source_kind": row.source_kind, "checked": row.checked}


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    shown = frame[["artefact", "model", "what", "method", "setting"]].copy()
    for name in ("published", "ours", "difference"):
        digits = [",.0f" if what == TRAINED else ".1f" for what in frame["what"]]
        texts = zip(frame[name], digits, strict=True)
        shown[name] = [MISSING if math.isnan(value) else format(value, digit) for value, digit in texts]
    bounds = zip(frame["low"], frame["high"], strict=True)
    shown["95% interval"] = ["" if math.isnan(low) else f"[{low:+.1f}, {high:+.1f}]" for low, high in bounds]
    shown["note"] = frame["note"]
    return shown
