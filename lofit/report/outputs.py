"""The list of all tables and figures of a configuration: what each needs and which module writes it.

The workflow, the command line, the summary and the report page all use this list.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lofit.cluster.process import set_up_computing
from lofit.errors import ConfigError
from lofit.experiments import TABLES
from lofit.plan.kinds import kind_of
from lofit.plan.nodes import ActivationsNode, Node
from lofit.plan.published import matching_runs
from lofit.plan.ranking_pairs import compares_tasks, configured_rankings
from lofit.plan.table import MAIN, TRANSFER, RunTable
from lofit.registry import unknown
from lofit.report.paths import items_path, results_path
from lofit.spec.protocol import table_name

COSTS, HEADS = "costs", "heads"
"""Names of the figures of scores against costs, and of the scores of heads."""


@dataclass(frozen=True)
class Output:
    """A table (``tables/<name>.md``, ``.tex`` and ``.csv``) or a figure (``figures/<name>.png``, ``.pdf``, ``.csv``).

    Attributes:
        kind: ``table`` or ``figure``.
        name: name of its files.
        title: what it shows, in one line.
        module: name of the module in ``lofit.report`` whose ``write(table, output)`` writes the files.
        needs: files from which it is made.
        triggers: other values, as plain data; if they change, the output is made again.
        loads: for each base model that it reads, a node that reads it too, and so asks for as much memory and time.
    """

    kind: Literal["table", "figure"]
    name: str
    title: str
    module: str
    needs: tuple[Path, ...]
    triggers: Any = None
    loads: tuple[ActivationsNode, ...] = ()

    @property
    def id(self) -> str:
        """Path below the results folder, without suffix."""
        return f"{self.kind}s/{self.name}"

    def path(self, results: Path) -> Path:
        """Return the path of the file that people read: ``.md`` for a table, ``.png`` for a figure."""
        return results / f"{self.id}.{'md' if self.kind == 'table' else 'png'}"

    def write(self, table: RunTable) -> None:
        """Write the files of this output."""
        if self.loads:  # otherwise the libraries would look for models on the hub, unless this is a fork of a server
            set_up_computing(1)
        importlib.import_module(f"lofit.report.{self.module}").write(table, self)


def outputs(table: RunTable) -> list[Output]:
    """Return all tables and figures, in the order in which they are shown; those of a part say so in their titles."""
    made = list(_outputs(table))
    return [replace(output, title=f"{output.title} ({table.note})") for output in made] if table.note else made


def named(table: RunTable, name: str) -> list[Output]:
    """Return the tables and figures of a name, or of an id such as ``tables/main``.

    Raises:
        ConfigError: there are none.
    """
    known = outputs(table)
    found = [output for output in known if name in (output.name, output.id)]
    if not found:
        raise ConfigError(unknown("table or figure", name, {output.name for output in known}))
    return found


def _outputs(table: RunTable) -> Iterator[Output]:
    config, main = table.config, _collected(table, MAIN)
    for protocol in config.protocols:
        title = f"Methods by task, protocol {protocol}"
        yield Output("figure", table_name(protocol), title, "main", main, list(config.tasks))
        yield Output("table", table_name(protocol), title, "main", main, list(config.tasks))
    title = f"Scores against trained parameters and against seconds, protocol {config.protocols[0]}"
    yield Output("figure", COSTS, title, "main", main, list(config.tasks))
    if "base" in config.methods:
        title = "Differences to the base model and to full fine-tuning, over all tasks"
        yield Output("table", "suite", title, "suite", main, config.suite or list(config.tasks))
    if stratified := [name for name in config.tasks if config.task(name).stratified]:
        yield Output("table", "strata", "What the scores are made of: kinds of test items", "strata", main, stratified)
    for name in table.experiments:
        yield _experiment(table, name)
    for name in table.planted:
        yield from _planted(table, name)
    if config.transfer:
        title, drawn = "Transfer of heads across tasks (LoFiT, Figure 2)", config.transfer.model_dump(mode="json")
        yield Output("figure", "transfer", title, "transfer", _collected(table, TRANSFER), drawn)
    if config.retention:
        title = "What fitting cost on other tasks (LoFiT, Table 5)"
        yield Output("table", "retention", title, "retention", main, list(config.retention))
        title = "Score against how far the model's predictions on other text moved"
        yield Output("figure", "disturbance", title, "disturbance", main, list(config.retention))
    if published := matching_runs(table):
        parts = sorted({row.artefact for row, _ in published})
        needs = tuple(path for part in parts for path in _collected(table, part))
        yield Output(
            "table", "expected", "Published values and ours", "expected", needs, [str(r) for r, _ in published]
        )
    if ranked := configured_rankings(table):
        selected = sorted((fit.ranking.id, fit.bottom, *fit.k) for fit in table.fits.values() if fit.ranking)
        yield Output("figure", HEADS, "Scores of attention heads", "head_map", _written(table, ranked), selected)
    rankings = _written(table, table.head_rankings.values())
    if len(table.head_rankings) > 1:
        title, told = "Overlap of head rankings", [sorted(table.head_rankings), table.head_counts()]
        yield Output("table", "overlap", title, "overlap", rankings, told)
        if compares_tasks(table):
            yield Output("figure", "overlap", f"{title} across tasks (LoFiT, Figure 6)", "overlap", rankings, told)
    if table.choices:
        chosen = tuple(kind_of(node).report(table, node) for node in table.choices.values())
        yield Output("table", "search", "What was tried and chosen on validation", "search", chosen)


def _experiment(table: RunTable, name: str) -> Output:
    spec, fits = table.config.experiment(name), [arm.fit for arm in table.experiments[name]]
    kind: Literal["table", "figure"] = "table" if spec.kind in TABLES else "figure"
    title, drawn = spec.title or name, spec.model_dump(mode="json")
    if spec.kind == "lens":
        read = {fit.model: ActivationsNode(fit.model, fit.model_source, fit.dtype, fit.data) for fit in fits}
        bases = [node for node in table.models.values() if node.model in read]
        return Output(kind, name, title, "lens", _written(table, [*bases, *fits]), drawn, tuple(read.values()))
    needs = _collected(table, name)
    if spec.kind == "layers":
        needs = _written(table, {fit.ranking.id: fit.ranking for fit in fits if fit.ranking}.values())
    return Output(kind, name, title, "experiments", needs, drawn)


def _planted(table: RunTable, name: str) -> Iterator[Output]:
    spec, runs = table.config.experiment(name), table.planted[name]
    title, drawn = spec.title or name, spec.model_dump(mode="json")
    plants = {run.plant.id: run.plant for run in runs}
    rankings = _written(table, [*plants.values(), *{run.ranking.id: run.ranking for run in runs}.values()])
    fits = _written(table, [*plants.values(), *{run.fit.id: run.fit for run in runs if run.fit}.values()])
    yield Output("table", name, f"{title}: recall", "planted", rankings, drawn)
    yield Output("figure", name, f"{title}: recall", "planted", rankings, drawn)
    yield Output("table", f"{name}_loss", f"{title}: loss after step V", "planted", fits, drawn)


def _written(table: RunTable, nodes: Iterable[Node]) -> tuple[Path, ...]:
    return tuple(path for node in nodes for path in kind_of(node).outputs(table, node))


def _collected(table: RunTable, part: str) -> tuple[Path, ...]:
    return results_path(table, part), items_path(table, part)
