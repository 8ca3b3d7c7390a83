"""The select_best node: keep the setting of a search that is the best on the validation rows."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from lofit.errors import LofitError
from lofit.files import atomic_path, read_json, write_json
from lofit.plan.kinds import FIT, LOCALIZE
from lofit.plan.nodes import TunedNode
from lofit.plan.table import RunTable


def run(table: RunTable, node: TunedNode) -> None:
    """Write ``adapter/``, ``fit.json`` and ``run.json`` of the best candidate, as a fit node does.

    The best candidate has, after the epoch whose weights were kept, the highest headline metric on the validation rows,
    and of several the lowest validation loss; with ``select_by: loss`` the lowest loss. The first wins a tie. No other
    criterion is used. ``fit.json`` is that of the best candidate with these keys added or replaced: ``chosen`` (its
    point in the grid), ``chosen_run``, ``select_by``, ``search`` (every point with ``run``, ``validation_metric``,
    ``validation_loss`` and, if it failed, ``reason``) and ``seconds`` (all candidates and their rankings together). If
    all candidates failed, this node fails too.

    Raises:
        LofitError: it is to choose by the metric, and a candidate was fitted without.
    """
    folder = table.folder(node)
    reports = [FIT.read_report(table, candidate) for candidate in node.candidates]
    tried = [
        {"run": candidate.id, "point": point, **_measured(report), "reason": report["reason"]}
        for candidate, point, report in zip(node.candidates, node.points, reports, strict=True)
    ]
    known = [at for at, entry in enumerate(tried) if entry["validation_loss"] is not None]
    if node.select_by == "metric":
        for entry in (tried[at] for at in known):
            if entry["validation_metric"] is None:
                raise LofitError(
                    f"{entry['run']}: fitted without a validation metric; run `lofit node fit` on it again"
                )
    with atomic_path(folder / "adapter") as adapter:
        if known:
            best = min(known, key=lambda at: _order(tried[at], node.select_by))
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
    write_json(folder / "fit.json", report | {"select_by": node.select_by, "search": tried})


def _measured(report: dict[str, Any]) -> dict[str, float | None]:
    """Return loss and metric on the validation rows after the epoch that was kept; None for what is not known."""
    names = ("validation_metric", "validation_loss")
    return {name: report[name][report.get("kept_epoch", -1)] if name in report else None for name in names}


def _order(measured: dict[str, Any], select_by: str) -> tuple[float, ...]:
    """Return what is lower for a better setting."""
    loss: float = measured["validation_loss"]
    return (-measured["validation_metric"], loss) if select_by == "metric" else (loss,)


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
    chosen, measured = ", ".join(f"{name} {value}" for name, value in report["chosen"].items()), _measured(report)
    metric = (
        "" if measured["validation_metric"] is None else f"{report['metric']} {measured['validation_metric']:.3f}, "
    )
    held_out = f"{metric}loss {measured['validation_loss']:.3f}"
    return f"of {len(report['search'])} settings chose {chosen} by {report['select_by']}; on validation {held_out}"
