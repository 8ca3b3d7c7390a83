"""Where the results of a configuration are, and which metric of a task heads its tables."""

from __future__ import annotations

from pathlib import Path

from lofit.evaluate.protocol import JUDGED, OPEN, Protocol
from lofit.runs import RunTable


def results_path(table: RunTable) -> Path:
    """The tidy results table."""
    return table.config.results / "results.parquet"


def items_path(table: RunTable) -> Path:
    """The scores of every single test item."""
    return table.config.results / "items.parquet"


def headline(table: RunTable, protocol: Protocol | None = None) -> dict[str, str]:
    """Task to headline metric under a protocol, by default the first configured one, in the configuration's order.

    Tasks that the protocol does not have are left out.
    """
    protocol = protocol or table.config.protocols[0]
    found = {name: table.config.task(name).headline_under(protocol) for name in table.config.tasks}
    judged = protocol == OPEN and table.config.judges
    return {name: JUDGED[-1] if judged else metric for name, metric in found.items() if metric}
