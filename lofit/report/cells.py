"""Aggregate tidy rows to one cell of a table or heat map: which rows count, and how they are averaged."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from lofit.errors import ReportError
from lofit.spec.protocol import COUNTED

_NEEDED = (
    "run_id", "model", "task", "fold", "method", "selector", "head_task", "n_heads",
    "tried", "extended", "outermost", "n_train", "n_items", *COUNTED, "seed", "eval_task", "protocol", "metric",
    "value", "status", "trained_params",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One aggregated value.

    Attributes:
        value: mean over the complete seeds, in the unit of the rows (a fraction); NaN without any.
        std: sample standard deviation (n - 1) over the complete seeds; NaN with fewer than two.
        n_seeds: number of complete seeds, that is, seeds with a value for every fold.
        status: ``ok`` if all seeds are complete, ``partial`` if some are, ``failed`` if none is and a run failed,
            ``missing`` if none is and no run failed.
        by_seed: mean over the folds for each complete seed.
        note: what is absent and why; empty if ``status`` is ``ok`` or there are no rows at all.
    """

    value: float
    std: float
    n_seeds: int
    status: Literal["ok", "partial", "failed", "missing"]
    note: str
    by_seed: Mapping[int, float] = field(default_factory=dict)


def headline_rows(results: pd.DataFrame, headline: Mapping[str, str]) -> pd.DataFrame:
    """Return the headline metric, or the failure, of each run on the task that it was trained for.

    Args:
        results: tidy results, as ``collect`` writes them.
        headline: task name to the name of its headline metric.

    Returns:
        One row per run: the headline metric, or the failure (metric null).

    Raises:
        ReportError: there are no such rows, a task or a run has no headline metric, or a task has rows of more than
            one protocol.
    """
    absent = [name for name in _NEEDED if name not in results.columns]
    if absent:
        raise ReportError(f"the results lack the columns {', '.join(absent)}; collect them again")
    rows = results[results["eval_task"] == results["task"]]
    if rows.empty:
        raise ReportError("the results hold no run evaluated on the task it was trained for; collect them again")
    unknown = sorted(set(rows["task"]) - set(headline))
    if unknown:
        raise ReportError(f"no headline metric is given for task {unknown[0]}; name one, or leave its rows out")
    failed = rows["status"].str.startswith("failed")
    is_headline = rows["metric"] == rows["task"].map(dict(headline))
    kept = rows[failed | is_headline]
    lost = rows[~rows["run_id"].isin(kept["run_id"])]
    if not lost.empty:
        first = lost.iloc[0]
        raise ReportError(
            f"run {first['run_id']} has no metric {headline[first['task']]} for task {first['task']}, only "
            f"{', '.join(lost.loc[lost['run_id'] == first['run_id'], 'metric'])}; correct the headline metric"
        )
    for task, group in kept.groupby("task", sort=False):
        protocols = sorted(group["protocol"].dropna().unique())
        if len(protocols) > 1:
            raise ReportError(
                f"task {task} was evaluated under the protocols {', '.join(protocols)}, whose values must not share "
                "a table; keep the rows of one protocol"
            )
    return kept


def folds_by_task(rows: pd.DataFrame) -> dict[str, set[int]]:
    """Return the folds that occur for each task. A seed counts only if it has values for all of them."""
    return {str(task): {int(fold) for fold in group} for task, group in rows.groupby("task")["fold"]}


def complete_rows(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the rows of complete seeds, which have a value in every fold of the task. Tests and intervals use these.

    Args:
        rows: headline rows.
        by: columns that identify a cell, including the task.
    """
    wanted = rows["task"].map({task: len(folds) for task, folds in folds_by_task(rows).items()})
    there = rows["value"].notna()
    found = there.groupby([rows[name] for name in [*by, "seed"]], dropna=False).transform("sum")
    return rows[there & (found == wanted)]


def aggregate(rows: pd.DataFrame, folds: Iterable[int], seeds: Iterable[int]) -> Cell:
    """Average the folds of each seed (unweighted), then the seeds.

    A seed with a failed or missing fold is left out completely, since folds differ in difficulty and a mean over some
    of them is not comparable.

    Args:
        rows: the headline rows of one cell, one per (seed, fold).
        folds: the expected folds of each seed.
        seeds: the expected seeds.

    Raises:
        ReportError: two runs have the same seed and fold.
    """
    twice = rows[rows.duplicated(["seed", "fold"], keep=False)]
    if not twice.empty:
        first = twice.iloc[0]
        raise ReportError(
            f"runs {', '.join(sorted(set(twice['run_id'])))} fill the same cell ({first['model']}, {first['method']}, "
            f"{first['task']}, fold {first['fold']}, seed {first['seed']}); keep one of them"
        )
    if rows.empty:
        return Cell(math.nan, math.nan, n_seeds=0, status="missing", note="")
    wanted, expected = sorted(set(folds)), sorted(set(seeds))
    means: dict[int, float] = {}
    notes: list[str] = []
    any_failed = False
    for seed in expected:
        of_seed = {int(row["fold"]): row for row in rows[rows["seed"] == seed].to_dict("records")}
        reasons = []
        for fold in wanted:
            where = f"fold {fold} " if len(wanted) > 1 and of_seed else ""
            if fold not in of_seed:
                reasons.append(f"{where}missing")
            elif of_seed[fold]["status"].startswith("failed"):
                any_failed = True
                reasons.append(f"{where}{of_seed[fold]['status']}")
        if not reasons:
            means[seed] = statistics.fmean(float(of_seed[fold]["value"]) for fold in wanted)
        else:
            notes.append(f"seed {seed} " + (", ".join(reasons) if of_seed else "missing"))
    if not means:
        return Cell(
            value=math.nan, std=math.nan, n_seeds=0,
            status="failed" if any_failed else "missing", note="; ".join(notes),
        )  # fmt: skip
    return Cell(
        value=statistics.fmean(means.values()),
        std=statistics.stdev(means.values()) if len(means) > 1 else math.nan,
        n_seeds=len(means),
        status="partial" if notes else "ok",
        note=f"{len(means)} of {len(expected)} seeds ({'; '.join(notes)})" if notes else "",
        by_seed=means,
    )
