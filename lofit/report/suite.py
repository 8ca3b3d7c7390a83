"""The suite table: each method's difference to the base model and to full fine-tuning, averaged over tasks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lofit.plan.table import MAIN, RunTable
from lofit.report.differences import REFERENCES, difference_text, suite_table
from lofit.report.outputs import Output
from lofit.report.parts import read_part
from lofit.report.paths import headline
from lofit.report.plain import DAGGER, write_plain_table
from lofit.report.significance import UNITS
from lofit.report.tables import MISSING


def write(table: RunTable, output: Output) -> None:
    """Write the suite table under the first protocol."""
    names, protocol = table.config.suite or list(table.config.tasks), table.config.protocols[0]
    chosen = {name: metric for name, metric in headline(table, protocol).items() if name in names}
    results, items = read_part(table, MAIN)
    frame = suite_table(results[results["protocol"] == protocol], items, chosen)
    write_suite(frame, table.drawn / output.id, output.title)


def write_suite(frame: pd.DataFrame, stem: Path, title: str) -> None:
    """Write ``<stem>.csv`` with all columns, and ``<stem>.md`` and ``.tex`` for people."""
    shown = pd.DataFrame({"model": frame["model"], "method": frame["method"], "tasks": frame["tasks"]})
    for reference in REFERENCES:
        marks = [DAGGER if partial else "" for partial in frame[f"{reference}.partial"]]
        texts = zip(difference_text(frame, reference), marks, strict=True)
        shown[f"average difference to {reference}"] = [text if text == MISSING else text + mark for text, mark in texts]
    note = (
        "Percentage points, headline metric of each task, averaged over folds, then over tasks; in brackets the 95% "
        f"interval {UNITS} (paired by both). {DAGGER} some seeds are left out, "
        f"{MISSING} no average: a run of the method, or of what it is compared with, failed or is missing; the CSV "
        "says which and why."
    )
    write_plain_table(frame, shown, stem, title=title, legend=note)
