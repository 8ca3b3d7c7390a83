"""What a configuration would run, for ``lofit plan``: fits, tables and figures, and what they cost."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lofit.plan.estimate import RATES, costs, node_cost
from lofit.plan.kinds import EVALUATE, FIT, KINDS
from lofit.plan.nodes import EvalNode
from lofit.plan.published import coverage, published
from lofit.plan.store import held
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


def print_plan(
    table: RunTable, configfile: Path, tflops: float | None, verbose: bool = False, whole: bool = True
) -> None:
    """Print the cost in all, by kind of node and by model and task; the tables and figures; and if asked for, the runs.

    Args:
        table: the run table.
        configfile: where the configuration is, for the title.
        tflops: sustained TFLOP/s of one device, for the times; None: the usual rate of the configured device.
        verbose: whether to list every run.
        whole: whether the table is of the whole configuration, whose tables and figures are then listed.
    """
    rate = tflops or RATES[table.config.device]
    device = " of one GPU" if table.config.device == "cuda" else ""
    found, unknown = costs(table)
    total, nodes = sum(cost.hours(rate) for cost in found.values()), sum(cost.nodes for cost in found.values())
    console = Console(soft_wrap=True)
    console.print(f"{configfile}: {nodes:,} nodes; about {_time(total)}{device} at {rate:g} TFLOP/s")
    lost = f"; not counted, since their size is not known: {', '.join(unknown)}" if unknown else ""
    console.print(f"An upper estimate, with starting nodes and reading weights (lofit/plan/estimate.py){lost}.")
    if there := sum(kind.report(table, node).is_file() for kind in KINDS for node in kind.nodes(table).values()):
        console.print(f"{there:,} of them have a result already; `lofit status` says more.")
    for store, number in held(table).items():
        console.print(f"{number:,} are in the store {store}.")
    sizes = Table()
    for column in ("kind of node", "nodes", "PFLOP", "time"):
        sizes.add_column(column, justify="left" if column == "kind of node" else "right")
    for kind, cost in found.items():
        known = [f"{cost.operations / 1e15:,.1f}", _time(cost.hours(rate))] if cost.operations else ["", ""]
        sizes.add_row(kind, f"{cost.nodes:,}", *known)
    console.print(sizes)
    places = Table()
    for column in ("model", "task", "fits", "evaluations", "time"):
        places.add_column(column, justify="left" if column in ("model", "task") else "right")
    for (model, task), (fits, evaluations, hours) in _by_place(table, rate).items():
        places.add_row(model, task, f"{fits:,}", f"{evaluations:,}", _time(hours) if hours else "")
    console.print(places)
    if whole:
        _print_outputs(table, console)
    if verbose:
        _print_runs(table)
    else:
        console.print(f"{len(table.fits):,} runs; --verbose lists them.")


def _print_outputs(table: RunTable, console: Console) -> None:
    made = Table(title="Tables and figures, with the number of fitted runs that each compares")
    made.add_column("file")
    made.add_column("what it shows")
    made.add_column("runs", justify="right")
    for output in outputs(table):
        part = next((part for part in table.parts() if results_path(table, part) in output.needs), None)
        runs = {node.fit.id for node in table.part(part).values()} if part else ()
        made.add_row(output.id, output.title, f"{len(runs):,}" if runs else "")
    console.print(made)


def _by_place(table: RunTable, rate: float) -> dict[tuple[str, str], tuple[int, int, float]]:
    """Number of fits and of evaluations, and hours of all nodes, by model and the task that they are for."""
    fits, evaluations = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    hours = defaultdict[tuple[str, str], float](float)
    for kind in KINDS:
        for node in kind.nodes(table).values() if kind.runs_model else ():
            place = node.model, (node.fit.data if isinstance(node, EvalNode) else node.data).task
            fits[place] += kind is FIT
            evaluations[place] += kind is EVALUATE
            cost = node_cost(table, node)
            hours[place] += cost.hours(rate) if cost else 0
    return {place: (fits[place], evaluations[place], hours[place]) for place in hours}


def _time(hours: float) -> str:
    return f"{60 * hours:,.0f} min" if hours < 2 else f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h"


def _print_runs(table: RunTable) -> None:
    view = Table(title="Runs")
    view.add_column("run", no_wrap=True)
    for column in ("selector", "head_task", "k"):
        view.add_column(column)
    rows = table.summary()
    for row in rows:
        view.add_row(row["run"], row["selector"] or "-", row["head_task"] or "-", row["k"] or "-")
    # Ids are there to be copied and searched for, so they are never broken over lines.
    width = max([80, *(len(row["run"]) + 40 for row in rows)])
    Console(soft_wrap=True, width=width).print(view, soft_wrap=True)
