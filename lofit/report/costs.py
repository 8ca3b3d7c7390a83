"""Costs of a whole configuration: hours, memory and failures by kind of node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from lofit.plan.kinds import KINDS
from lofit.plan.table import RunTable


def node_reports(table: RunTable) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield ``(kind, what, report)`` of every node that runs a model; ``what`` is its localizer or method.

    Raises:
        LofitError: a node has not run yet.
    """
    for kind in KINDS:
        for node in kind.nodes(table).values() if kind.runs_model else ():
            yield kind.name, node.subject, kind.read_report(table, node)


def costs_table(reports: list[tuple[str, str, dict[str, Any]]]) -> pd.DataFrame:
    """Return the costs: one row per kind of node and localizer or method.

    Args:
        reports: as :func:`node_reports` yields them.

    Returns:
        ``kind``, ``what``, ``nodes``, ``failed``, ``median_start`` (seconds until the model was loaded),
        ``median_seconds`` (wall time after that), ``hours`` (the same, summed over all nodes) and ``peak_gb`` (highest
        peak memory, in 1e9 bytes); NaN where nothing is known.
    """
    rows = pd.DataFrame(
        [
            {
                "kind": kind,
                "what": what,
                "failed": report["status"] != "ok",
                "start": report.get("start_seconds"),
                "seconds": report.get("seconds"),
                "peak": report.get("peak_memory_bytes"),
            }
            for kind, what, report in reports
        ]
    ).astype({"start": "float64", "seconds": "float64", "peak": "float64"})
    grouped = rows.groupby(["kind", "what"], sort=False)
    frame = grouped.agg(
        nodes=("failed", "size"),
        failed=("failed", "sum"),
        median_start=("start", "median"),
        median_seconds=("seconds", "median"),
        hours=("seconds", lambda seconds: seconds.sum(min_count=1) / 3600),
        peak_gb=("peak", lambda peaks: peaks.max() / 1e9),
    )
    return frame.reset_index()


def surroundings(reports: list[tuple[str, str, dict[str, Any]]]) -> pd.DataFrame:
    """Return the environments in which nodes ran, with the number of nodes in each.

    Columns: ``device``, ``dtype``, ``threads``, ``python``, ``commit``, ``packages`` and ``nodes``.
    """
    rows = [
        {
            "device": report["device"],
            "dtype": report["dtype"],
            "threads": report["threads"],
            "python": report["python"],
            "commit": report["git_commit"] or "",
            "packages": ", ".join(f"{name} {version}" for name, version in report["packages"].items()),
        }
        for _, _, report in reports
        if "packages" in report
    ]
    names = ["device", "dtype", "threads", "python", "commit", "packages"]
    return pd.DataFrame(rows, columns=names).groupby(names, sort=False).size().rename("nodes").reset_index()
