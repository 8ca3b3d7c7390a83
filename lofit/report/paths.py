"""Where the results of a configuration are, and which metric of a task heads its tables."""

from __future__ import annotations

from pathlib import Path

from lofit.plan.table import ALL, RunTable
from lofit.spec.protocol import JUDGED, OPEN, Protocol


def _folder(table: RunTable, part: str) -> Path:
    return table.config.results if part == ALL else table.config.results / "collected" / part


def results_path(table: RunTable, part: str) -> Path:
    """The tidy results of a part of the run table (see ``RunTable.part``)."""
    return _folder(table, part) / "results.parquet"


def items_path(table: RunTable, part: str) -> Path:
    """The scores of every single test item of a part of the run table."""
    return _folder(table, part) / "items.parquet"


def headline(table: RunTable, protocol: Protocol | None = None) -> dict[str, str]:
    """Task to headline metric under a protocol, by default the first configured one, in the configuration's order.

    Tasks that the protocol does not have are left out.
    """
    protocol = protocol or table.config.protocols[0]
    found = {name: table.config.task(name).headline_under(protocol) for name in table.config.tasks}
    judged = protocol == OPEN and table.config.judges
    return {name: JUDGED[-1] if judged else metric for name, metric in found.items() if metric}
