"""What a configuration would run, for ``lofit plan``: fits, tables and figures, and what they cost."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from lofit.plan.estimate import RATES, costs
from lofit.plan.published import coverage, published
from lofit.plan.table import RunTable
from lofit.report.outputs import outputs
from lofit.report.paths import results_path


def print_expected(table: RunTable) -> None:
    """Print how many cells each table of scores has, and how many published values there are to compare them with."""
    view = Table(title="Cells of tables and figures, and published values to compare them with")
    for column in ("table or figure", "cells", "published values"):
        view.add_column(column, justify="left" if column == "table or figure" else "right")
    found = coverage(table)
    for name, (cells, known) in found.items():
        view.add_row(name, f"{cells:,}", f"{known:,}")
    console = Console()
    console.print(view)
    rest = len(published()) - sum(known for _, known in found.values())
    console.print(
        f"config/expected has {rest} further values, of models, methods or settings that this configuration does not "
        "have. Most cells have none: the LoFiT paper's tables and figures are images, so a value is known where its "
        "text or another source gives it.",
    )


def print_plan(table: RunTable, configfile: Path, tflops: float | None) -> None:
    """Print the fits, the tables and figures with the number of runs that each compares, and the cost by rule.

    Args:
        table: the run table.
        configfile: where the configuration is, for the title.
        tflops: sustained TFLOP/s of one device, for the hours; None: the usual rate of the configured device.
    """
    view = Table(title=f"Run table of {configfile}")
    view.add_column("run", no_wrap=True)
    for column in ("selector", "head_task", "k"):
        view.add_column(column)
    rows = table.summary()
    for row in rows:
        view.add_row(row["run"], row["selector"] or "-", row["head_task"] or "-", row["k"] or "-")
    # Ids are there to be copied and searched for, so they are never broken over lines.
    console = Console(soft_wrap=True, width=max([80, *(len(row["run"]) + 40 for row in rows)]))
    console.print(view, soft_wrap=True)
    made = Table(title="Tables and figures, with the number of fitted runs that each compares")
    made.add_column("file")
    made.add_column("what it shows")
    made.add_column("runs", justify="right")
    for output in outputs(table):
        part = next((part for part in table.parts() if results_path(table, part) in output.needs), None)
        runs = {node.fit.id for node in table.part(part).values()} if part else ()
        made.add_row(output.id, output.title, f"{len(runs):,}" if runs else "")
    console.print(made)
    rate, unit = tflops or RATES[table.config.device], "GPU hours" if table.config.device == "cuda" else "hours"
    found, unknown = costs(table)
    total = sum(cost.hours(rate) for cost in found.values())
    nodes = sum(cost.nodes for cost in found.values())
    sizes = Table(title=f"{nodes:,} nodes; about {total:,.0f} {unit} at {rate:g} TFLOP/s")
    sizes.add_column("rule")
    for column in ("nodes", "PFLOP", unit):
        sizes.add_column(column, justify="right")
    for kind, cost in found.items():
        known = [f"{cost.operations / 1e15:,.1f}", f"{cost.hours(rate):,.1f}"] if cost.operations else ["", ""]
        sizes.add_row(kind, f"{cost.nodes:,}", *known)
    console.print(sizes)
    lost = f"; not counted, since their size is not known: {', '.join(unknown)}" if unknown else ""
    console.print(f"An upper estimate, with starting nodes and reading weights (lofit/plan/estimate.py){lost}.")
