"""Nodes that were killed: what could not write its own status gets one, so that the workflow goes on without it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lofit.cluster.watchdog import was_abandoned
from lofit.config import LimitsConfig
from lofit.errors import ConfigError, LofitError
from lofit.nodes import module_of
from lofit.plan.kinds import KINDS, NodeKind
from lofit.plan.nodes import Node
from lofit.plan.table import RunTable

RECORDS = Path(".snakemake")
"""Where Snakemake keeps what it knows of the files in this folder."""


def mark_failed(table: RunTable, runs: Sequence[str] | None) -> Iterable[str]:
    """Write the status of nodes that have none, as a failed node writes it.

    Args:
        table: of the configuration whose workflow was run in this folder.
        runs: ids of nodes; None: every node that was started, has what it needs, and left no result, but for those
            that say that they ended with their Snakemake.

    Yields:
        The id of each node after its status is written.

    Raises:
        LofitError: a workflow is running here, or what a named node needs is not there.
        ConfigError: a named node has a result, or is not one that runs a model.
    """
    if any((RECORDS / "locks").glob("*")):
        raise LofitError(
            f"{RECORDS / 'locks'}: a workflow is running in this folder; wait for its end or, if it was killed, run "
            "`snakemake --unlock` with its configuration first"
        )
    # Limits may need a GPU to be there.
    table = RunTable(table.config.model_copy(update={"limits": LimitsConfig()}))
    nodes = {id: (kind, node) for kind in KINDS if kind.runs_model for id, node in kind.nodes(table).items()}
    if runs is None:
        runs = [id for id, (kind, node) in nodes.items() if _was_killed(table, kind, node)]
    for run in runs:
        if run not in nodes:
            raise ConfigError(f"no node '{run}' in this configuration that runs a model; `lofit plan` lists the fits")
        kind, node = nodes[run]
        if (report := kind.report(table, node)).is_file():
            raise ConfigError(f"{run}: has a result, {report}; delete that file to have it computed again")
        if lost := _missing(table, kind, node):
            raise LofitError(f"{run}: {lost[0]} is not there yet, so it could not have run; mark what makes that")
    for run in runs:
        kind, node = nodes[run]
        _forget(kind.outputs(table, node))
        log = kind.log(table, run)
        module_of(kind).run(table, node, f"no result: killed, or ended by an error (its log: {log})")
        yield run


def _was_killed(table: RunTable, kind: NodeKind, node: Node) -> bool:
    ready = not kind.report(table, node).is_file() and not _missing(table, kind, node)
    log = kind.log(table, node.id)
    return ready and log.is_file() and not was_abandoned(log)


def _missing(table: RunTable, kind: NodeKind, node: Node) -> list[Path]:
    """Inputs that are not there."""
    return [path for paths in kind.inputs(table, node).values() for path in paths if not path.exists()]


def _forget(outputs: Iterable[Path]) -> None:
    """Take away Snakemake's marks that files are incomplete, of a workflow that was killed too."""
    if not RECORDS.is_dir():
        return
    from snakemake.io import IOFile
    from snakemake.persistence.file import FilePersistence

    records = FilePersistence(nolock=True, path=RECORDS.absolute())
    for path in outputs:
        records.cleanup_metadata(IOFile(str(path)))
