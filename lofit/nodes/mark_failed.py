"""Mark nodes that were killed as failed, so that the workflow can continue without them (``lofit mark-failed``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lofit.cluster.watchdog import was_abandoned
from lofit.config import LimitsConfig
from lofit.errors import ConfigError, LofitError
from lofit.files import is_being_written, only_writer
from lofit.nodes import module_of
from lofit.plan.kinds import KINDS, NodeKind
from lofit.plan.nodes import Node
from lofit.plan.store import record
from lofit.plan.table import RunTable

RECORDS = Path(".snakemake")
"""Folder in which Snakemake keeps its records of the files in the working folder."""


def mark_failed(table: RunTable, runs: Sequence[str] | None) -> Iterable[str]:
    """Write the status of a failed run for nodes that were killed and left none.

    Args:
        table: the run table of the configuration whose workflow was run in this folder.
        runs: ids of nodes, or parts of them that no other has. None: every node that was started, has all its inputs
            and left no result, except those whose log says that they ended because their Snakemake did, and those that
            are still being computed.

    Yields:
        The id of each node after its status is written.

    Raises:
        LofitError: a workflow is running in this folder, or an input of a named node is missing.
        ConfigError: a named node has a result, or there is none of that name that runs a model.
    """
    if any((RECORDS / "locks").glob("*")):
        raise LofitError(
            f"{RECORDS / 'locks'}: a workflow is running in this folder; wait for its end or, if it was killed, run "
            "`lofit run CONFIG -- --unlock` first"
        )
    # No model is run here, and applying a limit on GPU memory would need a GPU.
    table = RunTable(table.config.model_copy(update={"limits": LimitsConfig()}))
    nodes = {id: (kind, node) for kind in KINDS if kind.runs_model for id, node in kind.nodes(table).items()}
    if runs is None:
        runs = [id for id, (kind, node) in nodes.items() if _was_killed(table, kind, node)]
    known = {id: node for id, (_, node) in nodes.items()}
    runs = [table.find(known, run).id for run in runs]
    for run in runs:
        kind, node = nodes[run]
        if (report := kind.report(table, node)).is_file():
            raise ConfigError(f"{run}: has a result, {report}; delete that file to have it computed again")
        if is_being_written(table.folder(node)):
            raise LofitError(f"{run}: is still being computed, by a job that its workflow left; cancel that first")
        if lost := _missing(table, kind, node):
            raise LofitError(f"{run}: {lost[0]} is not there yet, so it could not have run; mark what makes that")
    for run in runs:
        kind, node = nodes[run]
        _forget(kind.outputs(table, node))
        log = kind.log(table, run)
        with only_writer(table.folder(node)):
            module_of(kind).run(table, node, f"no result: killed, or ended by an error (its log: {log})")
            record(table, kind, node)
        yield run


def _was_killed(table: RunTable, kind: NodeKind, node: Node) -> bool:
    ready = not kind.report(table, node).is_file() and not _missing(table, kind, node)
    log = kind.log(table, node.id)
    return ready and log.is_file() and not was_abandoned(log) and not is_being_written(table.folder(node))


def _missing(table: RunTable, kind: NodeKind, node: Node) -> list[Path]:
    """Return the inputs of a node that do not exist."""
    return [path for paths in kind.inputs(table, node).values() for path in paths if not path.exists()]


def _forget(outputs: Iterable[Path]) -> None:
    """Remove Snakemake's marks that these files are incomplete, which remain if Snakemake was killed as well."""
    if not RECORDS.is_dir():
        return
    from snakemake.io import IOFile
    from snakemake.persistence.file import FilePersistence

    records = FilePersistence(nolock=True, path=RECORDS.absolute())
    for path in outputs:
        records.cleanup_metadata(IOFile(str(path)))
