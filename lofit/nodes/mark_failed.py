"""Nodes that were killed: what could not write its own status gets one, so that the workflow goes on without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lofit.cluster.watchdog import was_abandoned
from lofit.config import LimitsConfig
from lofit.errors import ConfigError, LofitError
from lofit.methods import load_method
from lofit.plan.table import RunTable

RECORDS = Path(".snakemake")
"""Where Snakemake keeps what it knows of the files in this folder."""


@dataclass(frozen=True)
class Pending:
    """A node that runs a model and has no result.

    Attributes:
        id: of the node.
        log: where it said how it went.
        outputs: what it writes; the last of them is its status.
        inputs: statuses of the nodes that it needs.
        settle: writes the outputs of a failed node, of the reason.
    """

    id: str
    log: Path
    outputs: tuple[Path, ...]
    inputs: tuple[Path, ...]
    settle: Callable[[str], None]


def settle(table: RunTable, runs: Sequence[str] | None) -> Iterable[str]:
    """Write the status of nodes that have none, as a failed node writes it.

    Args:
        table: of the configuration whose workflow was run in this folder.
        runs: ids of nodes; None: every node that was started, has what it needs, and left no result, but for those
            that say that they ended with their Snakemake.

    Yields:
        The id of each node after it is settled.

    Raises:
        LofitError: a workflow is running here, or what a named node needs is not there.
        ConfigError: a named node has a result, or is not one that runs a model.
    """
    if any((RECORDS / "locks").glob("*")):
        raise LofitError(
            f"{RECORDS / 'locks'}: a workflow is running in this folder; wait for its end or, if it was killed, run "
            "`snakemake --unlock` with its configuration first"
        )
    nodes = {node.id: node for node in _nodes(table)}
    if runs is None:
        runs = [node.id for node in nodes.values() if _is_due(node)]
    for run in runs:
        if run not in nodes:
            raise ConfigError(f"no node '{run}' in this configuration that runs a model; `lofit plan` lists the fits")
        node = nodes[run]
        if node.outputs[-1].is_file():
            raise ConfigError(f"{run}: has a result, {node.outputs[-1]}; delete that file to have it computed again")
        if lost := [path for path in node.inputs if not path.is_file()]:
            raise LofitError(f"{run}: {lost[0]} is not there yet, so it could not have run; settle what makes that")
    for run in runs:
        node = nodes[run]
        _forget(node.outputs)
        node.settle(f"no result: killed, or ended by an error (its log: {node.log})")
        yield run


def _is_due(node: Pending) -> bool:
    ready = not node.outputs[-1].is_file() and all(path.is_file() for path in node.inputs)
    return ready and node.log.is_file() and not was_abandoned(node.log)


def _nodes(table: RunTable) -> Iterable[Pending]:
    from lofit.activations.names import FILES
    from lofit.nodes import activations, evaluate, fit, localize

    logs = table.config.results / "logs"
    # Limits may need a GPU to be there.
    free = RunTable(table.config.model_copy(update={"limits": LimitsConfig()}))
    for reading in free.activations.values():
        folder = free.activations_dir(reading)
        yield Pending(
            reading.id,
            logs / "activations" / f"{reading.id}.log",
            tuple(folder / name for name in FILES),
            (_model(free, reading.model), free.data_dir(reading.data) / "manifest.json"),
            lambda reason, node=reading: activations.run(free, node, reason),  # type: ignore[misc]
        )
    for ranking in free.localize.values():
        folder, used = free.localize_dir(ranking), free.activations_of(ranking)
        yield Pending(
            ranking.id,
            logs / "localize" / f"{ranking.id}.log",
            (folder / "heads.parquet", folder / "localize.json"),
            (
                _model(free, ranking.model),
                free.data_dir(ranking.data) / "manifest.json",
                *([free.activations_dir(used) / "activations.json"] if used else []),
            ),
            lambda reason, node=ranking: localize.run(free, node, reason),  # type: ignore[misc]
        )
    for fitted in free.fits.values():
        if not load_method(fitted.method).fit or fitted.id in free.tuned:
            continue
        folder, used, heads = free.run_dir(fitted), free.activations_of(fitted), fitted.ranking
        yield Pending(
            fitted.id,
            logs / "fit" / f"{fitted.id}.log",
            (folder / "adapter", folder / "fit.json"),
            (
                _model(free, fitted.model),
                free.data_dir(fitted.data) / "manifest.json",
                *([free.activations_dir(used) / "activations.json"] if used else []),
                *([free.localize_dir(heads) / "localize.json"] if heads else []),
            ),
            lambda reason, node=fitted: fit.run(free, node, reason),  # type: ignore[misc]
        )
    for scored in free.evaluations.values():
        folder = free.eval_dir(scored)
        needs_fit = load_method(scored.fit.method).fit is not None
        yield Pending(
            scored.id,
            logs / "evaluate" / f"{scored.id}.log",
            (folder / "samples.jsonl", folder / "results.json"),
            (
                _model(free, scored.fit.model),
                free.data_dir(scored.data) / "manifest.json",
                *([free.run_dir(scored.fit) / "fit.json"] if needs_fit else []),
            ),
            lambda reason, node=scored: evaluate.run(free, node, reason),  # type: ignore[misc]
        )


def _model(table: RunTable, name: str) -> Path:
    return table.model_dir(name) / "source.json"


def _forget(outputs: Iterable[Path]) -> None:
    """Take away Snakemake's marks that files are incomplete, of a workflow that was killed too."""
    if not RECORDS.is_dir():
        return
    from snakemake.io import IOFile
    from snakemake.persistence.file import FilePersistence

    records = FilePersistence(nolock=True, path=RECORDS.absolute())
    for path in outputs:
        records.cleanup_metadata(IOFile(str(path)))
