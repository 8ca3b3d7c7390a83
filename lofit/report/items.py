"""The table of scores of every test item, on which paired comparisons are based."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lofit.errors import ReportError
from lofit.files import atomic_path, read_json, read_jsonl, short_hash
from lofit.methods import load_method, method_names
from lofit.report.collect import EvaluatedRun
from lofit.spec.protocol import TRUE_X_INFORMATIVE
from lofit.stats import EVERY_SEED, Interval, Sample, half_width
from lofit.tasks.splits import normalised

SCHEMA = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("eval_task", pa.string(), nullable=False),
        pa.field("eval_fold", pa.int64(), nullable=False),
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("cluster", pa.string(), nullable=False),
        pa.field("stratum", pa.string()),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
"""Columns of ``items.parquet``. An item has the same name in all runs that were scored on it.

Items of one ``cluster`` share a context, such as a passage, and are not independent of each other. ``stratum`` is the
kind of item; null where the task has no kinds.
"""


_AT_ONCE = 100_000
"""Rows that are held in memory and written together."""


def collect_items(runs: Sequence[EvaluatedRun], target: Path) -> None:
    """Write one row per evaluated run, item and metric to ``target`` (parquet); failed runs have no rows.

    Raises:
        ReportError: the samples of a run do not hold a metric that its results report.
    """
    known = {file: _known_of_items(*file) for file in {(run.items_path, run.cluster_field) for run in runs}}
    with atomic_path(target) as part, pq.ParquetWriter(part, SCHEMA, compression="zstd") as writer:
        records: list[dict[str, Any]] = []
        for at, run in enumerate(runs, start=1):
            records += _records(run, known[run.items_path, run.cluster_field])
            if records and (at == len(runs) or len(records) >= _AT_ONCE):  # small groups hardly compress
                writer.write_table(pa.Table.from_pandas(pd.DataFrame(records), schema=SCHEMA, preserve_index=False))
                records = []


def item_scores(rows: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run and test item: the columns of ``rows``, with ``value``, ``item`` and ``cluster``.

    Names of items and clusters are prefixed with the fold, so that they differ between folds. The ``seed`` of a method
    that no seed changes is :data:`lofit.stats.EVERY_SEED`.

    Args:
        rows: rows of ``results.parquet``, one metric per run and evaluation.
        items: as :func:`collect_items` writes them.
    """
    on = ["run_id", "eval_task", "eval_fold", "protocol", "metric"]
    scores = rows.drop(columns="value").merge(items, on=on)
    fold = scores["eval_fold"].astype(str)
    unseeded = [name for name in scores["method"].unique() if name in method_names() and not load_method(name).seeded]
    scores["seed"] = scores["seed"].mask(scores["method"].isin(unseeded), EVERY_SEED)
    return scores.assign(item=fold + "/" + scores["item"], cluster=fold + "/" + scores["cluster"])


def item_interval(table: pd.DataFrame, value: float) -> Interval:
    """Return the 95% confidence interval of a value over clusters of test items and over seeds.

    The items of all folds are pooled. The interval is that of :func:`lofit.stats.half_width` about ``value``, in which
    folds have equal weights, clipped to [0, 1].

    Args:
        table: scores by item and seed, as :func:`lofit.stats.by_seed` returns them.
        value: the mean shown in the table, a fraction.
    """
    half = half_width(Sample.of(table))
    if math.isnan(half):
        return Interval(value, half, half)
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def _known_of_items(path: Path | None, cluster_field: str) -> list[dict[str, str | None]]:
    """Return the cluster and the stratum of every test item, in order; empty if they are not known."""
    rows = read_jsonl(path) if path else []
    if any(cluster_field not in row for row in rows):
        raise ReportError(f"{path} lacks the field {cluster_field}: an earlier version prepared it; delete its folder")
    return [{"cluster": short_hash(normalised(row[cluster_field])), "stratum": row.get("stratum")} for row in rows]


def scores_of(sample: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores of one of lm-eval's samples, by the names that metrics have in results.

    These are ``metric``, with a filter ``metric.filter``, and both with the name of lm-eval's task in front, which they
    have where one task of ours has several of lm-eval's.
    """
    suffix = "" if sample.get("filter", "none") == "none" else f".{sample['filter']}"
    plain = {f"{name}{suffix}": float(value) for name, value in sample.items() if isinstance(value, int | float)}
    return plain | {f"{sample['task']}.{name}": value for name, value in plain.items()}


def _records(run: EvaluatedRun, known: list[dict[str, str | None]]) -> Iterator[dict[str, Any]]:
    metrics = set(read_json(run.eval_path / "results.json")["metrics"])
    samples = read_jsonl(run.eval_path / "samples.jsonl")
    found: set[str] = set()
    where = {
        "run_id": run.run_id,
        "eval_task": run.eval_task,
        "eval_fold": run.eval_fold,
        "protocol": run.protocol,
    }
    for sample in samples:
        item = str(sample["doc"].get("id", sample["doc_id"]))
        for metric, value in scores_of(sample).items():
            if metric in metrics:
                found.add(metric)
                of_item = known[sample["doc_id"]] if known else {"cluster": item, "stratum": None}
                yield where | of_item | {"item": item, "metric": metric, "value": value}
    if lost := sorted(metrics - found - {TRUE_X_INFORMATIVE}):
        raise ReportError(f"{run.eval_path}/samples.jsonl holds no metric {lost[0]}; evaluate run {run.run_id} again")
