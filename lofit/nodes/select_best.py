"""The select_best node: keep the setting of a search that is the best on the validation rows.

It also fits what cannot be planned before: learning rates beyond the grid while the best is the outermost, and for
other seeds or other heads the setting that was chosen.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from lofit.config import grid
from lofit.errors import FitError, LofitError
from lofit.files import atomic_path, read_json, write_json
from lofit.nodes.context import remove_save_points
from lofit.nodes.fit import fit_into
from lofit.nodes.limits import limited
from lofit.nodes.status import record_failure
from lofit.plan.kinds import FIT, LOCALIZE, SELECT_BEST
from lofit.plan.nodes import FitNode, TunedNode
from lofit.plan.table import RunTable
from lofit.training.loop import preference


def run(table: RunTable, node: TunedNode, killed: str | None = None) -> None:
    """Write ``adapter/``, ``fit.json`` and ``run.json`` of the best setting, as a fit node does.

    The best setting has, after the epoch whose weights were kept, the highest headline metric on the validation rows,
    and of several the lowest validation loss; with ``select_by: loss`` the lowest loss. The first wins a tie. No other
    criterion is used. ``fit.json`` is that of the best fit with these keys added or replaced: ``chosen`` (its point in
    the grid), ``chosen_run``, ``select_by``, ``search`` (every point with ``run``, ``validation_metric``,
    ``validation_loss`` and, if it failed, ``reason``), ``extended`` (how many of them, the last ones, are beyond the
    grid) and ``seconds`` (of all settings and their rankings together). If all settings failed, this node fails too.

    Args:
        table: the run table of the configuration.
        node: the node to run.
        killed: reason of the failure, for a node that was killed; nothing is chosen.

    Raises:
        LofitError: it is to choose by the metric, and a candidate was fitted without.
    """
    folder = table.folder(node)
    search: dict[str, Any] = {"select_by": node.select_by, "search": [], "extended": 0}
    with atomic_path(folder / "adapter") as adapter:
        adapter.mkdir()
        with record_failure() as report, limited(table.config.limits, table.config.device):
            if killed:
                raise FitError(killed)
            make = _follow if node.leader else _choose
            report |= make(table, node, adapter, search)
    write_json(folder / "run.json", node.identity)
    write_json(folder / "fit.json", report | search)
    remove_save_points(folder)


def _choose(table: RunTable, node: TunedNode, adapter: Path, search: dict[str, Any]) -> dict[str, Any]:
    """Put the best adapter in its place and return its report; ``search`` is filled with what was tried."""
    reports = [FIT.read_report(table, candidate) for candidate in node.candidates]
    tried = search["search"]

    def add(fit: FitNode, point: dict[str, Any], report: dict[str, Any]) -> None:
        tried.append({"run": fit.id, "point": point, **_measured(report), "reason": report["reason"]})

    def best_of_all() -> int | None:
        known = [at for at, entry in enumerate(tried) if entry["validation_loss"] is not None]
        return min(known, key=lambda at: preference(tried[at], node.select_by), default=None)

    for candidate, point, report in zip(node.candidates, node.points, reports, strict=True):
        add(candidate, point, report)
        if node.select_by == "metric" and tried[-1]["validation_loss"] is not None is tried[-1]["validation_metric"]:
            again = f"run `lofit node fit {candidate.id}` again"
            raise LofitError(f"{candidate.id}: fitted without a validation metric; {again}")
    best = best_of_all()
    outer, last = [], len(node.candidates) - 1
    if node.extends and best in (0, last):
        outer = grid.beyond([point["lr"] for point in node.points], best == last)
    for rate in outer:
        extension, further = node.at_rate(rate), adapter.with_name(f"{adapter.name}-further")
        further.mkdir()
        with record_failure() as report:
            report |= fit_into(table, extension, table.folder(node), further, scored=node.select_by == "metric")
        reports.append(report)
        add(extension, {"lr": rate}, report)
        search["extended"] += 1
        best = best_of_all()
        is_best = best == len(tried) - 1
        shutil.rmtree(adapter if is_best else further)
        if not is_best:
            break
        further.rename(adapter)
    if best is None:
        first = next((entry["reason"] for entry in tried if entry["reason"]), "there are no validation rows")
        raise FitError(f"none of {len(tried)} settings can be chosen; the first: {first}")
    if best < len(node.candidates):
        shutil.rmtree(adapter)
        # Hard links where the file system allows them, since a candidate may be a whole checkpoint.
        shutil.copytree(table.folder(node.candidates[best]) / "adapter", adapter, copy_function=_link)
    own = reports[best].get("chosen", {})
    chosen = {"chosen": own | tried[best]["point"], "chosen_run": tried[best]["run"]}
    return reports[best] | chosen | {"seconds": _seconds(table, node, reports)}


def _follow(table: RunTable, node: TunedNode, adapter: Path, search: dict[str, Any]) -> dict[str, Any]:
    """Fit the setting that the leader chose and return its report; ``search`` is filled with the leader's."""
    assert node.leader
    leader = SELECT_BEST.read_report(table, node.leader)
    search |= {name: leader[name] for name in search}
    if leader["status"] != "ok":
        raise FitError(leader["reason"])
    runs = [fit.id for fit in node.leader.candidates]
    if leader["chosen_run"] in runs:
        at = runs.index(leader["chosen_run"])
        fit, point = node.candidates[at], node.points[at]
    else:
        point = next(entry["point"] for entry in leader["search"] if entry["run"] == leader["chosen_run"])
        fit = node.at_rate(point["lr"])
    report = fit_into(table, fit, table.folder(node), adapter)
    chosen = {"chosen": report.get("chosen", {}) | point, "chosen_run": fit.id}
    return report | chosen | {"seconds": leader["seconds"] + _seconds(table, node, [report])}


def _measured(report: dict[str, Any]) -> dict[str, float | None]:
    """Return loss and metric on the validation rows after the epoch that was kept; None for what is not known."""
    names = ("validation_metric", "validation_loss")
    return {name: report[name][report.get("kept_epoch", -1)] if name in report else None for name in names}


def _seconds(table: RunTable, node: TunedNode, reports: list[dict[str, Any]]) -> float:
    """Return the seconds of fits and of all rankings; failed fits count as 0, since their times are not known."""
    ranked = [LOCALIZE.read_report(table, ranking) for ranking in node.rankings]
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
