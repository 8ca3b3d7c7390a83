"""Paths of the collected results of a configuration, and the headline metric of each task."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from lofit.methods import load_method
from lofit.plan.kinds import CAPTURE, EVALUATE, FIT, LOCALIZE
from lofit.plan.nodes import FitNode, LocalizeNode, Node
from lofit.plan.table import ALL, RunTable
from lofit.spec.protocol import JUDGED, OPEN, Protocol, scoring

N = TypeVar("N", bound=Node)


def _folder(table: RunTable, part: str) -> Path:
    return table.drawn if part == ALL else table.drawn / "collected" / part


def results_path(table: RunTable, part: str) -> Path:
    """Return the path of the tidy results of a part of the run table (see ``RunTable.part``)."""
    return _folder(table, part) / "results.parquet"


def items_path(table: RunTable, part: str) -> Path:
    """Return the path of the scores of every test item of a part of the run table."""
    return _folder(table, part) / "items.parquet"


def part_inputs(table: RunTable, part: str) -> dict[str, list[Path]]:
    """Return the files from which the scores of a part of the run table are collected."""
    evaluations = list(table.part(part).values())
    fits = [fit for fit in _once(node.fit for node in evaluations) if load_method(fit.method).fit]
    rankings = _once(node.fit.ranking for node in evaluations if node.fit.ranking)
    readers: list[FitNode | LocalizeNode] = [*fits, *rankings]
    activations = _once(used for user in readers if (used := table.activations_of(user)))
    data = _once(found for node in evaluations for found in (node.data, node.fit.data))
    return {
        "scores": [EVALUATE.report(table, node) for node in evaluations],
        "fits": [path for node in fits for path in FIT.outputs(table, node)],
        "rankings": [path for node in rankings for path in LOCALIZE.outputs(table, node)],
        "activations": [CAPTURE.report(table, node) for node in activations],
        "data": [table.folder(node) / name for node in data for name in ("manifest.json", "test.jsonl")],
    }


def _once(nodes: Iterable[N]) -> list[N]:
    """Return the distinct nodes, in order."""
    return list({node.id: node for node in nodes}.values())


def headline(table: RunTable, protocol: Protocol | None = None) -> dict[str, str]:
    """Return task to headline metric under a protocol, in the order of the configuration.

    The default protocol is the first configured one. Tasks that are not scored under the protocol are left out.
    """
    protocol = protocol or table.config.protocols[0]
    found = {name: table.config.task(name).headline_under(protocol) for name in table.config.tasks}
    judged = scoring(protocol) == OPEN and table.config.judges
    return {name: JUDGED[-1] if judged else metric for name, metric in found.items() if metric}
