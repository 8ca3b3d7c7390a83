"""The table of retention: how fitting a method for one task changed the scores on other tasks."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from lofit.plan.table import MAIN, RunTable
from lofit.report.differences import difference_text, retention_table
from lofit.report.outputs import Output
from lofit.report.parts import read_part
from lofit.report.plain import write_plain_table
from lofit.report.significance import UNITS
from lofit.report.tables import MISSING


def write(table: RunTable, output: Output) -> None:
    """Write the table of retention."""
    tasks = {name: table.config.task(name) for name in table.config.retention}
    in_nats = [name for name, task in tasks.items() if task.plain_text]
    results, items = read_part(table, MAIN)
    frame = retention_table(results, items, {name: task.headline for name, task in tasks.items()}, in_nats)
    write_retention(frame, table.drawn / output.id, output.title)


def write_retention(frame: pd.DataFrame, stem: Path, title: str) -> None:
    """Write ``<stem>.csv`` with all columns, and ``<stem>.md`` and ``.tex`` for people."""
    shown = frame[["model", "method", "fitted for", "scored on", "metric"]].assign(
        score=[MISSING if math.isnan(score) else f"{score:.2f}" for score in frame["score"]],
        change=difference_text(frame, "change", 2),
        items=frame["items"],
    )
    if frame["note"].any():
        shown["note"] = frame["note"]
    note = (
        "Scores of methods fitted for another task, and their change against the base model; in brackets the 95% "
        f"interval {UNITS} (paired by both). {MISSING} no score, or none of the "
        "base model to compare with."
    )
    write_plain_table(frame, shown, stem, title=title, legend=note)
