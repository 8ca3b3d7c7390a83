"""Variance components of scores: training subsets, training seeds, and test items."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from lofit.report.cells import folds_by_task
from lofit.report.items import item_scores
from lofit.report.plain import write_plain_table
from lofit.report.tables import MISSING
from lofit.stats import Sample, by_seed, variance_components

LEGEND = (
    "Percent. Every training subset is trained on with every training seed; standard deviations of a score due to the "
    "training seed, to the training subset (what seeds explain is taken off) and to the test items, with the p-value "
    "of the F test that subsets do not differ, given their seeds. A subset counts if all its runs have a score."
)


def variance_table(rows: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Return the variance components of the scores: one row per model, task and arm.

    Args:
        rows: one row per run, with ``variant``, ``seed`` (of the training subset), ``training_seed`` and the headline
            ``value``.
        items: as ``collect_items`` writes them.

    Returns:
        ``model``, ``task``, ``arm``, ``percent`` (mean over all runs), the standard deviations ``sd_training``,
        ``sd_subset`` and ``sd_items`` (percentage points; NaN with fewer than two), ``p_subset`` (F test that subsets
        do not differ), the numbers ``subsets`` and ``training_seeds``, and ``note`` (what failed).
    """
    folds = folds_by_task(rows)
    scores = item_scores(rows[rows["status"] == "ok"], items)
    records = []
    for key, group in rows.groupby(["model", "task", "variant"], sort=False):
        model, task, arm = key
        # A score is the mean over the folds; it is NaN if a fold has no value.
        values = group.pivot(index=["seed", "training_seed"], columns="fold", values="value")
        values = values.reindex(columns=sorted(folds[str(task)]))
        table = values.mean(axis=1, skipna=False).unstack("training_seed").dropna()
        record: dict[str, Any] = {"model": model, "task": task, "arm": arm, "percent": math.nan}
        record |= dict.fromkeys(("sd_training", "sd_subset", "sd_items", "p_subset"), math.nan)
        if len(table):
            record["percent"] = 100 * float(table.to_numpy().mean())
            of_cell = scores[(scores["model"] == model) & (scores["task"] == task) & (scores["variant"] == arm)]
            of_cell = of_cell[of_cell["seed"].isin(table.index)]
            over_items, _ = Sample.of(by_seed(of_cell)).parts
            record["sd_items"] = 100 * math.sqrt(over_items)
        if min(table.shape) > 1:
            found = variance_components(table)
            record["sd_training"], record["sd_subset"] = 100 * math.sqrt(found.within), 100 * math.sqrt(found.between)
            record["p_subset"] = found.p
        failed = group.loc[group["status"] != "ok", "status"]
        record |= {"subsets": table.shape[0], "training_seeds": table.shape[1]}
        records.append(record | {"note": "; ".join(dict.fromkeys(failed))})
    return pd.DataFrame(records)


def write_variance(frame: pd.DataFrame, stem: Path, *, title: str) -> None:
    """Write a table of :func:`variance_table` as ``<stem>.csv``, ``.md`` and ``.tex``."""

    def text(name: str, digits: int) -> pd.Series:
        return frame[name].map(lambda value: MISSING if math.isnan(value) else f"{value:.{digits}f}")

    shown = frame[["model", "task", "arm"]].assign(
        **{
            "mean": text("percent", 1),
            "training seed": text("sd_training", 2),
            "training subset": text("sd_subset", 2),
            "test items": text("sd_items", 2),
            "p (subset)": text("p_subset", 3),
            "subsets x seeds": frame["subsets"].astype(str) + " x " + frame["training_seeds"].astype(str),
            "note": frame["note"],
        }
    )
    write_plain_table(frame, shown, stem, title=title, legend=LEGEND)
