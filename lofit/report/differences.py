"""Differences to the base model and to full fine-tuning, paired by test item."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pandas as pd
from scipy.stats import t as student

from lofit.report.cells import aggregate, complete_rows, folds_by_task
from lofit.report.items import item_scores
from lofit.report.tables import MISSING, transferred, variant_names
from lofit.stats import LEVEL, Sample, by_seed, paired_sample

REFERENCES = ("base", "full")
_SAME_FOR_ALL: dict[str, tuple[str, ...]] = {"base": ("task", "fold"), "full": ()}
"""Columns on which a reference does not depend: the base model is not fitted on any task or fold."""
_UNIT = ("task", "fold", "eval_task", "eval_fold", "metric")
"""Columns that identify one comparison, apart from model and method."""
_RETAINED = ("task", "eval_task", "eval_fold", "metric")
"""The same for retained tasks, whose items do not depend on the fold of the fit and therefore form one sample."""


@dataclass(frozen=True)
class Difference:
    """A mean difference of scores, in the metric's unit.

    Attributes:
        value: the mean; NaN if there are no items.
        variance: variance of the mean, over clusters of items and over seeds.
        n_items: number of items that both runs scored.
        freedom: degrees of freedom of the variance.
    """

    value: float
    variance: float
    n_items: int
    freedom: float = math.inf

    @property
    def half_width(self) -> float:
        """Half-width of the 95% confidence interval (Student's t)."""
        return float(student.ppf((1 + LEVEL) / 2, self.freedom) * math.sqrt(self.variance))


def mean_of(parts: Sequence[Difference]) -> Difference:
    """Return the unweighted mean of independent differences (over folds or tasks), with its variance."""
    n = len(parts)
    if not n or any(math.isnan(part.value) for part in parts):
        return Difference(math.nan, math.nan, sum(part.n_items for part in parts))
    return sum_of([Difference(part.value / n, part.variance / n**2, part.n_items, part.freedom) for part in parts])


def sum_of(parts: Sequence[Difference]) -> Difference:
    """Return the sum of independent differences, with its variance (degrees of freedom: Satterthwaite 1946)."""
    variance = sum(part.variance for part in parts)
    spread = sum(part.variance**2 / part.freedom for part in parts)
    return Difference(
        sum(part.value for part in parts),
        variance,
        sum(part.n_items for part in parts),
        variance**2 / spread if spread else math.inf,
    )


def paired(items: pd.DataFrame, reference: pd.DataFrame, bounded: bool = True) -> Difference:
    """Return the mean paired difference over clusters of items and over seeds.

    Args:
        items: scores with the columns ``seed``, ``item``, ``cluster`` and ``value``.
        reference: scores of the reference, with the same columns.
        bounded: whether scores are between 0 and 1.
    """
    return mean_over(paired_sample(by_seed(items), by_seed(reference), bounded=bounded))


def mean_over(sample: Sample) -> Difference:
    """Return the mean of a sample, with its variance over clusters and seeds."""
    return Difference(sample.mean, sample.variance, sample.n_items, sample.degrees_of_freedom)


def suite_table(results: pd.DataFrame, items: pd.DataFrame, headline: Mapping[str, str]) -> pd.DataFrame:
    """Return each method's difference to the base model and to full fine-tuning, averaged over the tasks.

    The folds of a task are averaged unweighted, then the tasks. Intervals are over clusters of test items and over
    seeds. The average is NaN if the method or the reference has no score on one of the tasks.

    Args:
        results: as ``collect`` writes them, rows of one protocol.
        items: as ``collect_items`` writes them.
        headline: the tasks and their headline metrics.

    Returns:
        ``model``, ``method`` and ``tasks`` (number with a score). For each reference: the average difference in the
        column ``<reference>``, its 95% confidence interval in ``<reference>.low`` and ``<reference>.high``,
        ``<reference>.partial`` (whether seeds of the method or the reference are left out), and the differences by
        task in ``<task>.<reference>``. ``note`` lists which runs of the method and of the references failed or are
        missing, and why. Differences are in percentage points.
    """
    rows = results[(results["eval_task"] == results["task"]) & results["task"].isin(headline)]
    rows = _named(rows[~transferred(rows)])
    rows = rows[(rows["metric"] == rows["task"].map(dict(headline))) | (rows["status"] != "ok")]
    counted = complete_rows(rows, ["model", "variant", "task"])
    table, folds = _differences(counted, items, headline, _UNIT), folds_by_task(rows)
    absent = {name: _absences(runs, headline, folds) for name, runs in _grouped(rows, ["model", "variant"])}
    records = []
    for (model, variant), runs in _grouped(rows[rows["variant"] != "base"], ["model", "variant"]):
        group = table[(table["model"] == model) & (table["variant"] == variant)]
        tasks = runs.loc[runs["status"] == "ok", "task"].nunique()
        record: dict[str, Any] = {"model": model, "method": variant, "tasks": tasks}
        notes = list(absent[model, variant])
        for reference in REFERENCES:
            of_reference = absent.get((model, reference), ["no run"])
            cells = group[group["reference"] == reference]
            by_task = {}
            for task in headline:
                parts = list(cells.loc[cells["task"] == task, "difference"])
                by_task[task] = mean_of(parts if len(parts) == len(folds.get(task, ())) else [])
            record |= _interval(reference, mean_of(list(by_task.values())))
            record[f"{reference}.partial"] = bool(absent[model, variant] or of_reference)
            record |= {f"{task}.{reference}": 100 * found.value for task, found in by_task.items()}
            if variant != reference:
                notes += [f"{reference}: {note}" for note in of_reference]
        records.append(record | {"note": "; ".join(notes)})
    if not records:
        averages = chain(*((*_interval_columns(name), f"{name}.partial") for name in REFERENCES))
        return pd.DataFrame(columns=["model", "method", "tasks", *averages, "note"])
    return pd.DataFrame(records)


def _absences(runs: pd.DataFrame, headline: Mapping[str, str], folds: Mapping[str, set[int]]) -> list[str]:
    """Return which tasks or seeds are absent among the runs of one method, and why."""
    seeds = {int(seed) for seed in runs["seed"]}
    cells = {task: aggregate(runs[runs["task"] == task], folds.get(task, ()), seeds) for task in headline}
    return [f"{task}: {cell.note or 'no run'}" for task, cell in cells.items() if cell.status != "ok"]


def retention_table(
    results: pd.DataFrame, items: pd.DataFrame, headline: Mapping[str, str], in_nats: Collection[str] = ()
) -> pd.DataFrame:
    """Return how fitting a method for one task changed the scores on other tasks, relative to the base model.

    Args:
        results: as ``collect`` writes them.
        items: as ``collect_items`` writes them.
        headline: the retained tasks and their headline metrics.
        in_nats: the tasks among them whose metric is a cross-entropy in nats per token instead of a fraction.

    Returns:
        One row per ``model``, ``method``, task ``fitted for`` and task ``scored on``, with ``metric``, ``score`` (in
        percent or nats), ``change`` relative to the base model, its 95% confidence interval ``change.low`` to
        ``change.high`` over clusters of items and over seeds, ``items`` (their number), and ``note`` (which runs failed
        and why). Values without scores are NaN.
    """
    rows = _named(results[results["eval_task"].isin(headline) & (results["eval_task"] != results["task"])])
    keys = ["model", "variant", "task", "eval_task"]
    table = _differences(rows, items, headline, _RETAINED, in_nats)
    scored = dict(list(_grouped(table[table["reference"] == "base"], keys)))
    records = []
    for (model, variant, task, on), runs in _grouped(rows, keys):
        against, lost = scored.get((model, variant, task, on)), runs[runs["status"] != "ok"]
        if against is None and lost.empty:
            continue  # the base model itself
        whole, scale = mean_of([] if against is None else list(against["difference"])), 1 if on in in_nats else 100
        of = runs["run_id"].nunique()
        notes = [f"{count} of {of} {reason}" for reason, count in lost.groupby("status")["run_id"].nunique().items()]
        records.append(
            {
                "model": model,
                "method": variant,
                "fitted for": task,
                "scored on": on,
                "metric": f"{headline[on]} ({'nats' if on in in_nats else '%'})",
                "score": math.nan if against is None else scale * against["value"].mean(),
                **_interval("change", whole, scale),
                "items": whole.n_items,
                "note": "; ".join(notes),
            }
        )
    columns = ["model", "method", "fitted for", "scored on", "metric", "score", *_interval_columns("change"), "items"]
    return pd.DataFrame(records, columns=[*columns, "note"])


def _differences(
    rows: pd.DataFrame,
    items: pd.DataFrame,
    headline: Mapping[str, str],
    unit: Sequence[str],
    in_nats: Collection[str] = (),
) -> pd.DataFrame:
    """Return the paired difference for each model, variant, unit and reference.

    The difference of a reference to itself is 0; it is NaN if the reference has no scores. The base model has no rows.
    """
    rows = rows[rows["metric"] == rows["eval_task"].map(dict(headline))]
    scored = item_scores(rows, items)
    records = []
    columns = ["model", "variant", *unit]
    for key, group in _grouped(scored, columns):
        place = dict(zip(columns, key, strict=True))
        for reference in REFERENCES:
            wanted = {name: place[name] for name in ("model", *unit) if name not in _SAME_FOR_ALL[reference]}
            wanted["method"] = reference
            of_reference = scored[(scored[list(wanted)] == list(wanted.values())).all(axis=1)]
            if (group["method"] == reference).all():
                difference = Difference(0.0, 0.0, group["item"].nunique())
            else:
                bounded = place["eval_task"] not in in_nats
                difference = paired(group, of_reference, bounded) if len(of_reference) else mean_of([])
            if place["variant"] != "base":
                records.append(
                    place | {"reference": reference, "difference": difference, "value": group["value"].mean()}
                )
    return pd.DataFrame(records, columns=[*columns, "reference", "difference", "value"])


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(variant=variant_names(rows))


def _grouped(frame: pd.DataFrame, by: list[str]) -> Any:
    return frame.groupby(by, sort=False)


def _interval_columns(name: str) -> tuple[str, str, str]:
    return name, f"{name}.low", f"{name}.high"


def _interval(name: str, found: Difference, scale: float = 100) -> dict[str, float]:
    value, width = scale * found.value, scale * found.half_width
    return dict(zip(_interval_columns(name), (value, value - width, value + width), strict=True))


def difference_text(frame: pd.DataFrame, name: str, digits: int = 1) -> list[str]:
    """Return the differences in the column ``name`` with their intervals, as text."""
    return [
        MISSING if math.isnan(value) else f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
        for value, low, high in zip(frame[name], frame[f"{name}.low"], frame[f"{name}.high"], strict=True)
    ]
