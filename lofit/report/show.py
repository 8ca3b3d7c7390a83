"""What is behind one cell of a table: runs, seeds, items, answers and configuration (``lofit show``)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pandas as pd

from lofit import registry
from lofit.config.results import snapshot_path
from lofit.errors import ConfigError
from lofit.files import read_jsonl
from lofit.methods import load_method
from lofit.plan.kinds import kind_of
from lofit.plan.nodes import EvalNode, FitNode, TunedNode
from lofit.plan.table import MAIN, RunTable
from lofit.report.cells import headline_rows
from lofit.report.compare import KINDS, main_rows
from lofit.report.experiments import arm_rows
from lofit.report.items import scores_of
from lofit.report.parts import read_part
from lofit.report.paths import headline
from lofit.report.samples import answered
from lofit.report.tables import cell_text, cells
from lofit.spec.protocol import table_name

Which = Literal["all", "right", "wrong"]


def show(
    table: RunTable, name: str, row: str, column: str, model: str | None = None, n_items: int = 3, which: Which = "all"
) -> Iterator[str]:
    """Yield lines of Markdown on a cell: its value, the runs behind it, and items with what was answered.

    Args:
        table: the run table of the configuration.
        name: a main table, or an experiment with scores.
        row: the method or arm, as the table calls it, or a part of that which no other has.
        column: the task, or such a part.
        model: the model, or such a part; it can be left out if the table has one.
        n_items: test items of each run to show.
        which: items to show: those with a score of 1, the others, or all.

    Raises:
        ConfigError: there is no such table, row, column or model, or several.
        ReportError: the table has not been made.
    """
    rows, metrics = _rows(table, name)
    task = registry.matching("column", column, rows["task"])
    rows = rows[rows["task"] == task]
    found = registry.matching("model", model, rows["model"]) if model else None
    if found is None and rows["model"].nunique() > 1:
        raise ConfigError(f"{name} has several models; give --model: {', '.join(rows['model'].unique())}")
    rows = rows[rows["model"] == found] if found else rows
    variant = registry.matching("row", row, rows["variant"])
    part = MAIN if name not in table.experiments else name
    _, items = read_part(table, part)
    [cell] = (
        entry
        for entry in cells(headline_rows(rows, metrics), {task: metrics[task]}, items).to_dict("records")
        if entry["method"] == variant
    )
    runs = rows[rows["variant"] == variant]
    first = runs.iloc[0]
    yield f"{name}, {variant}, {task}, {first['model']}: {cell_text(cell)} ({metrics[task]}, {first['protocol']})"
    if cell["note"]:
        yield cell["note"]
    yield f"configuration: {snapshot_path(table.config)}\n"
    evaluations = {
        node.fit.id: node for node in table.part(part).values() if node.own and node.protocol == first["protocol"]
    }
    for run_id, of_run in runs.groupby("run_id", sort=False):
        yield from _run(table, evaluations[str(run_id)], of_run, metrics[task], n_items, which)


def _rows(table: RunTable, name: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Results behind a table, with ``variant`` (what its rows are called), and the metric of every task."""
    protocols = {MAIN: table.config.protocols[0]}
    protocols |= {table_name(protocol): protocol for protocol in table.config.protocols}
    if name in protocols:
        return main_rows(table, protocols[name]), headline(table, protocols[name])
    known = [each for each in table.experiments if table.config.experiment(each).kind in KINDS]
    if name not in known:
        raise ConfigError(registry.unknown("table", name, [*protocols, *known]))
    rows = arm_rows(table, name)
    places = zip(rows["variant"], rows["x"].astype(float), strict=True)
    labels = [arm if pd.isna(x) else f"{arm} at {x:g}" for arm, x in places]
    return rows.assign(variant=labels), headline(table)


def _run(
    table: RunTable, node: EvalNode, of_run: pd.DataFrame, metric: str, n_items: int, which: Which
) -> Iterator[str]:
    fit, scored = node.fit, of_run[of_run["metric"] == metric]
    yield f"## seed {fit.seed}, fold {fit.data.fold}: {fit.id}"
    yield f"files: {table.folder(fit)}"
    yield from (f"{name}: {value}" for name, value in told_of_fit(table, fit).items())
    if scored.empty:
        yield f"{of_run['status'].iloc[0]}\n"
        return
    yield f"{metric} {scored['value'].iloc[0]:.4f} on {int(scored['n_items'].iloc[0])} items\n"
    samples = read_jsonl(table.folder(node) / "samples.jsonl")
    scored_items = [(sample, found[metric]) for sample in samples if metric in (found := scores_of(sample))]
    kept = [(sample, score) for sample, score in scored_items if which in ("all", "right" if score == 1 else "wrong")]
    for sample, score in kept[:n_items]:
        yield from _item(sample, f"{metric} {score:g}")


def told_of_fit(table: RunTable, fit: FitNode) -> dict[str, str]:
    """Settings, what was chosen on validation, edited heads and cost of a run, as text by name; empty without a fit."""
    if not load_method(fit.method).fit:
        return {}
    report = kind_of(fit).read_report(table, fit)
    told: dict[str, Any] = {} if isinstance(fit, TunedNode) else {"params": fit.params.model_dump(mode="json")}
    told |= {name: report.get(name) for name in ("chosen", "heads", "trained_params", "steps", "seconds")}
    if isinstance(fit, TunedNode):
        told["of"] = [entry["point"] for entry in report["search"]]
    return {name: json.dumps(value) for name, value in told.items() if value}


def _item(sample: Mapping[str, Any], scored: str) -> Iterator[str]:
    """Lines on one test item: what was asked, what is right, and what was answered."""
    item = answered(sample)
    yield f"### {item.id}: {scored}"
    yield "\n".join(item.asked)
    if item.answer is not None:
        yield f"right: {' | '.join(item.right)}"
        yield f"answered: {item.answer}\n"
        return
    for text, log_likelihood, right in item.choices:
        yield f"{log_likelihood:10.3f} nats {'right' if right else '     '} {text}"
    yield ""
