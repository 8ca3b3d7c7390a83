"""The localize node: rank the attention heads of one model on one task, fold and seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lofit.errors import FitError
from lofit.files import read_json, write_json
from lofit.localizers import load_localizer
from lofit.nodes.context import open_context, remove_save_points
from lofit.nodes.limits import limited
from lofit.nodes.status import record_failure
from lofit.plan.nodes import LocalizeNode
from lofit.plan.table import RunTable
from lofit.rankings.ranking import rank_heads, top_heads, write_ranking


def run(table: RunTable, node: LocalizeNode, killed: str | None = None) -> None:
    """Write ``heads.parquet``, ``localize.json`` and ``run.json``.

    If the localization failed, the ranking is empty and ``localize.json`` holds the reason.

    Args:
        table: the run table of the configuration.
        node: the node to run.
        killed: reason of the failure, for a node that was killed; nothing is ranked.
    """
    folder, localizer = table.folder(node), load_localizer(node.localizer)
    ranking = rank_heads(np.zeros((0, 1)))
    with record_failure() as report, limited(table.config.limits, table.config.device):
        if killed:
            raise FitError(killed)
        context = open_context(table, node, f"{node.localizer} heads on {node.data.task}", folder)
        scores = localizer.score(context, node.params)
        ranking = rank_heads(scores.values, scores.tie_breaks)
        report |= scores.record
    write_json(folder / "run.json", node.identity)
    write_ranking(ranking, folder / "heads.parquet")
    write_json(folder / "localize.json", report)
    remove_save_points(folder)


def summary_line(folder: Path) -> str:
    """Return one line for the log: layer and number of the five best heads, and seconds."""
    status = read_json(folder / "localize.json")
    if status["status"] != "ok":
        return f"failed: {status['reason']}"
    best = ", ".join(f"L{layer}H{head}" for layer, head in top_heads(folder / "heads.parquet", 5))
    return f"best heads {best}; {status['seconds']:.0f} s"
