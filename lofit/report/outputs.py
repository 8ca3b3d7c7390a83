"""Which tables and figures a configuration has: the one list that workflow, summary and report page read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lofit.experiments import TABLES
from lofit.plan.published import matching_runs
from lofit.plan.ranking_pairs import compares_tasks
from lofit.plan.table import RunTable
from lofit.spec.protocol import table_name


@dataclass(frozen=True)
class Output:
    """A table (``tables/<name>.md`` and ``.csv``) or a figure (``figures/<name>.png``, ``.pdf`` and ``.csv``).

    Attributes:
        kind: which of both.
        name: of its files.
        title: what it shows, in a line.
    """

    kind: Literal["table", "figure"]
    name: str
    title: str

    def path(self, results: Path) -> Path:
        """The file a person opens first."""
        if self.kind == "table":
            return results / "tables" / f"{self.name}.md"
        return results / "figures" / f"{self.name}.png"


def outputs(table: RunTable) -> list[Output]:
    """All tables and figures of a configuration, the most wanted first."""
    config = table.config
    found = []
    for protocol in config.protocols:
        found.append(Output("table", table_name(protocol), f"Methods by task, protocol {protocol}"))
    if "base" in config.methods:
        found.append(Output("table", "suite", "Differences to the base model and to full fine-tuning, over all tasks"))
    for name in config.experiments:
        spec = config.experiment(name)
        found.append(Output("table" if spec.kind in TABLES else "figure", name, spec.title or name))
    if config.transfer:
        found.append(Output("figure", "transfer", "Transfer of heads across tasks"))
    if config.retention:
        found.append(Output("table", "retention", "What fitting cost on other tasks"))
    if matching_runs(table):
        found.append(Output("table", "expected", "Published values and ours"))
    if len(table.localize) > 1:
        found.append(Output("table", "overlap", "Overlap of head rankings"))
    if compares_tasks(table):
        found.append(Output("figure", "overlap", "Overlap of head rankings across tasks"))
    if table.tuned:
        found.append(Output("table", "search", "What searches tried and chose"))
    return found
