"""The select_best node: keep the setting of a search that has the lowest validation loss."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from lofit.files import atomic_path, read_json, write_json
from lofit.plan.kinds import FIT, LOCALIZE
from lofit.plan.nodes import TunedNode
from lofit.plan.table import RunTable


def run(table: RunTable, node: TunedNode) -> None:
    """Write ``adapter/``, ``fit.json`` and ``run.json`` of the best candidate, as a fit node does.

    The best candidate has the lowest validation loss after the epoch whose weights were kept; the first wins a tie. No
    other criterion is used. ``fit.json`` is that of the best candidate with these keys added or replaced: ``chosen``
    (its point in the grid), ``chosen_run``, ``search`` (every point with ``run``, ``validation_loss`` and, if it
    failed, ``reason``) and ``seconds`` (all candidates and their rankings together). If all candidates failed, this
    node fails too.
    """
    folder = table.folder(node)
    reports = [FIT.read_report(table, candidate) for candidate in node.candidates]
    tried = [
        {"run": candidate.id, "point": point, "validation_loss": _loss(report), "reason": report["reason"]}
        for candidate, point, report in zip(node.candidates, node.points, reports, strict=True)
    ]
    known = [at for at, entry in enumerate(tried) if entry["validation_loss"] is not None]
    with atomic_path(folder / "adapter") as adapter:
        if known:
            best = min(known, key=lambda at: tried[at]["validation_loss"])
            # Hard links where the file system allows them, since a candidate may be a whole checkpoint.
            shutil.copytree(table.folder(node.candidates[best]) / "adapter", adapter, copy_function=_link)
            report = reports[best] | {"chosen": reports[best].get("chosen", {}) | node.points[best]}
            report["chosen_run"] = node.candidates[best].id
            report["seconds"] = _seconds(table, node, reports)
        else:
            adapter.mkdir()
            first = next((entry["reason"] for entry in tried if entry["reason"]), "there are no validation rows")
            report = {"status": "failed", "reason": f"none of {len(tried)} settings can be chosen; the first: {first}"}
    write_json(folder / "run.json", node.identity)
    write_json(folder / "fit.json", report | {"search": tried})


def _loss(report: dict[str, Any]) -> float | None:
    loss: float | None = report["validation_loss"][report.get("kept_epoch", -1)] if report["status"] == "ok" else None
    return loss


def _seconds(table: RunTable, node: TunedNode, reports: list[dict[str, Any]]) -> float:
    """Return the seconds of the whole search; failed candidates count as 0, since their times are not known."""
    rankings = {ranking.id: ranking for candidate in node.candidates if (ranking := candidate.ranking)}
    ranked = [LOCALIZE.read_report(table, ranking) for ranking in rankings.values()]
    return sum(report.get("seconds", 0.0) for report in [*reports, *ranked])


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def summary_line(folder: Path) -> str:
    """Return one line for the log: how many settings were tried, and which was chosen."""
    report = read_json(folder / "fit.json")
    if report["status"] != "ok":
        return f"failed: {report['reason']}"
    chosen = ", ".join(f"{name} {value}" for name, value in report["chosen"].items())
    return f"of {len(report['search'])} settings chose {chosen}; validation loss {_loss(report):.3f}"
