"""How far a study is, from its files alone: while it runs, after it ended, or in a copy of its results."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from lofit.config import parse_config
from lofit.errors import ConfigError, LofitError
from lofit.files import is_being_written
from lofit.plan.estimate import RATES, node_cost
from lofit.plan.kinds import FETCH, KINDS, PREPARE, NodeKind
from lofit.plan.table import RunTable
from lofit.report.outputs import outputs
from lofit.strict_yaml import read_yaml

State = Literal["done", "failed", "running", "stopped", "left"]
STATES: tuple[State, ...] = ("done", "failed", "running", "stopped", "left")
"""Failed: has a result that says why it failed. Stopped: was started, left no result and is not at work."""
SHOWN = 5
"""Failures that are told with their reasons."""


@dataclass(frozen=True)
class NodeState:
    """How one node is.

    Attributes:
        kind: kind of the node.
        node: the node.
        state: one of :data:`STATES`.
        seconds: what it took; None if it is not done.
        reason: why it failed.
    """

    kind: NodeKind
    node: Any
    state: State
    seconds: float | None = None
    reason: str | None = None


def read_folder(folder: Path) -> RunTable:
    """Return the run table of a folder of results, which may be a copy, by the newest configuration in it.

    Raises:
        ConfigError: it has no configuration.
    """
    found = sorted(folder.glob("plan/config-*.yaml"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise ConfigError(f"{folder} holds no plan/config-*.yaml, so it is no folder of results; name another one")
    here = {"results": str(folder), "reuse": []}  # stores may be elsewhere, and are not read
    return RunTable(parse_config(read_yaml(found[-1], ConfigError) | here, str(found[-1])))


def node_states(table: RunTable) -> list[NodeState]:
    """Return how every node of a configuration is. Models and data are left out where they are not, as in a copy."""
    kinds = [kind for kind in KINDS if kind not in (FETCH, PREPARE) or table.config.resources.is_dir()]
    return [_state(table, kind, node) for kind in kinds for node in kind.nodes(table).values()]


def _state(table: RunTable, kind: NodeKind, node: Any) -> NodeState:
    try:
        report = kind.read_report(table, node)
    except (LofitError, OSError):
        if kind.runs_model and is_being_written(table.folder(node)):
            return NodeState(kind, node, "running")
        return NodeState(kind, node, "stopped" if kind.log(table, node.id).is_file() else "left")
    if report.get("status") == "failed":
        return NodeState(kind, node, "failed", reason=str(report.get("reason")))
    return NodeState(kind, node, "done", (report.get("seconds") or 0) + (report.get("start_seconds") or 0))


def hours_left(table: RunTable, states: list[NodeState]) -> float | None:
    """Return the hours that the nodes still take one after the other; None if no node is done that runs a model.

    That is their estimate (``lofit plan``) times what done nodes of their kind took over the estimate for these, or of
    all kinds where none of it is done.
    """
    rate = RATES[table.config.device]
    took, expected, rest = (defaultdict[str, float](float) for _ in range(3))
    for at in states:
        if not at.kind.runs_model or not (cost := node_cost(table, at.node)):
            continue
        if at.seconds:
            took[at.kind.name] += at.seconds / 3600
            expected[at.kind.name] += cost.hours(rate)
        elif at.state != "failed":
            rest[at.kind.name] += cost.hours(rate)
    if not took:
        return None
    every = sum(took.values()) / sum(expected.values())
    return sum(hours * (took[kind] / expected[kind] if kind in took else every) for kind, hours in rest.items())


def print_status(table: RunTable) -> None:
    """Print the nodes by model and task, the time left, and the last failures."""
    states, console = node_states(table), Console(markup=False, emoji=False, highlight=False)
    counts: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for at in states:
        counts[getattr(at.node, "model", "-"), _task(at.node)][at.state] += 1
    totals = Counter(at.state for at in states)
    finished = totals["done"] + totals["failed"]
    console.print(f"{table.config.results}: {finished} of {len(states)} nodes have a result.", soft_wrap=True)
    view = Table()
    for column in ("model", "task"):
        view.add_column(column, overflow="fold")
    for state in STATES:
        view.add_column(state, justify="right")
    for (model, task), of in counts.items():
        view.add_row(model, task, *(str(of[state] or "") for state in STATES))
    if len(counts) > 1:
        view.add_section()
        view.add_row("all", "", *(str(totals[state] or "") for state in STATES))
    console.print(view)
    drawn = outputs(table)
    there = sum(output.path(table.config.results).is_file() for output in drawn)
    console.print(f"{there} of {len(drawn)} tables and figures are drawn.")
    hours = hours_left(table, states)
    if hours:
        at_once = max(1, totals["running"])
        console.print(
            f"About {hours / at_once:.1f} h left with {at_once} at once, by what finished nodes took.", soft_wrap=True
        )
    failed = [at for at in states if at.state == "failed"]
    failed.sort(key=lambda at: at.kind.report(table, at.node).stat().st_mtime, reverse=True)
    for at in failed[:SHOWN]:
        console.print(f"failed: {at.kind.name} {at.node.id}: {at.reason}", soft_wrap=True)
    if len(failed) > SHOWN:
        console.print(f"... and {len(failed) - SHOWN} more, on the report's page")
    for at in [at for at in states if at.state == "stopped"][:SHOWN]:
        log = at.kind.log(table, at.node.id)
        console.print(f"stopped: {at.kind.name} {at.node.id}; its log: {log}", soft_wrap=True)


def _task(node: Any) -> str:
    """The task that a node works on; of an evaluation, that of its fit."""
    data = node.fit.data if hasattr(node, "fit") else getattr(node, "data", node)
    return str(getattr(data, "task", "-"))
