"""The prepare node: fetch the data of one task, split it for one fold and seed, and render the prompts."""

from __future__ import annotations

from pathlib import Path

from lofit import tasks
from lofit.files import read_json
from lofit.plan.nodes import DataNode
from lofit.plan.table import RunTable
from lofit.sources.fetcher import Fetcher
from lofit.tasks import Task, TaskOptions


def run(table: RunTable, node: DataNode) -> None:
    """Write the splits and their manifest.

    Raises:
        TaskError: the data is malformed or does not fit the options.
        SourceError: the data cannot be fetched.
    """
    tasks.prepare_task(*_asked(table, node), table.folder(node))


def check(table: RunTable, node: DataNode) -> None:
    """Read and check what :func:`run` would write, and write nothing; raises what it raises."""
    tasks.drawn_splits(*_asked(table, node))


def _asked(table: RunTable, node: DataNode) -> tuple[Task, TaskOptions, int, int, Fetcher]:
    task = table.config.task(node.task)
    fetcher = Fetcher(table.config.resources / "downloads", table.config.data_mirror)
    return task, task.Options.model_validate(node.options), node.fold, node.seed, fetcher


def summary_line(folder: Path) -> str:
    """Return one line for the log: the number of rows of each split."""
    counts = read_json(folder / "manifest.json")["counts"]
    return ", ".join(f"{split} {count['kept']}" for split, count in counts.items())
