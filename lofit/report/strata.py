"""The table of what a score is made of: the score of every method on each kind of test item (``stratum``)."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from lofit.plan.table import MAIN, RunTable
from lofit.report.cells import complete_rows, headline_rows
from lofit.report.items import item_interval, item_scores
from lofit.report.outputs import Output
from lofit.report.parts import read_part
from lofit.report.paths import headline
from lofit.report.plain import write_plain_table
from lofit.report.significance import UNITS
from lofit.report.tables import transferred, variant_names
from lofit.stats import by_seed

COLUMNS = (
    *("model", "task", "method", "stratum", "metric", "percent", "percent_low", "percent_high"),
    *("items", "clusters", "seeds"),
)
LEGEND = (
    f"Percent; in brackets the 95% interval {UNITS}. Folds are averaged within a "
    "stratum, whose items are the same for all methods and seeds; a seed counts only if all its folds have a value. "
    "Which strata a task has is in docs/tasks.md."
)


def strata_table(rows: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of every method on each kind of test item.

    Args:
        rows: one row per run, as :func:`lofit.report.cells.headline_rows` returns them.
        items: as :func:`lofit.report.items.collect_items` writes them; items without a ``stratum`` are left out.

    Returns:
        One row per ``model``, ``task``, ``method`` (variant) and ``stratum``, with ``metric``, in percent ``percent``
        and its 95% interval ``percent_low`` to ``percent_high`` (of one cluster it says nothing), and the numbers of
        ``items`` (over all folds), of their ``clusters`` and of complete ``seeds``. Failed runs have no rows.
    """
    rows = rows[~transferred(rows)]
    rows = complete_rows(rows.assign(variant=variant_names(rows)), ["model", "variant", "task"])
    scores = item_scores(rows, items[items["stratum"].notna()])
    records = []
    for (model, task, variant), cell in scores.groupby(["model", "task", "variant"], sort=False):
        for stratum, group in cell.groupby("stratum"):
            value = group.groupby("eval_fold")["value"].mean().mean()
            interval = item_interval(by_seed(group), value)
            counts = group[["item", "cluster", "seed"]].nunique()
            numbers = (100 * value, 100 * interval.low, 100 * interval.high, *counts)
            records.append((model, task, variant, stratum, group["metric"].iloc[0], *numbers))
    return pd.DataFrame(records, columns=list(COLUMNS))


def write(table: RunTable, output: Output) -> None:
    """Write the table for the runs of the main table, under the first protocol."""
    results, items = read_part(table, MAIN)
    chosen = headline(table)
    rows = results[(results["protocol"] == table.config.protocols[0]) & results["task"].isin(chosen)]
    write_strata(strata_table(headline_rows(rows, chosen), items), table.drawn / output.id, output.title)


def write_strata(frame: pd.DataFrame, stem: Path, title: str) -> None:
    """Write ``<stem>.csv`` with all columns, and ``<stem>.md`` and ``.tex`` for people."""
    intervals = zip(frame["percent"], frame["percent_low"], frame["percent_high"], strict=True)
    shown = frame[["model", "task", "method", "stratum", "metric"]].assign(
        score=[
            f"{value:.1f}" + ("" if math.isnan(low) else f" [{low:.1f}, {high:.1f}]") for value, low, high in intervals
        ],
        items=frame["items"],
        clusters=frame["clusters"],
        seeds=frame["seeds"],
    )
    write_plain_table(frame, shown, stem, title=title, legend=LEGEND)
