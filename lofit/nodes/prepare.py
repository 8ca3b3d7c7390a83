"""The prepare node: fetch the data of one task, split it for one fold and seed, and render the prompts."""

from __future__ import annotations

from pathlib import Path

from lofit import tasks
from lofit.files import read_json
from lofit.plan.nodes import DataNode
from lofit.plan.table import RunTable
from lofit.sources.fetcher import Fetcher


def run(table: RunTable, node: DataNode) -> None:
    """Write the splits and their manifest.

    Raises:
        TaskError: the data is malformed or does not fit the options.
        SourceError: the data cannot be fetched.
    """
    task = table.config.task(node.task)
    fetcher = Fetcher(table.config.resources / "downloads", table.config.data_mirror)
    options = task.Options.model_validate(node.options)
    tasks.prepare_task(task, options, node.fold, node.seed, fetcher, table.folder(node))


def summary_line(folder: Path) -> str:
    """Return one line for the log: the number of rows of each split."""
    counts = read_json(folder / "manifest.json")["counts"]
    return ", ".join(f"{split} {count['kept']}" for split, count in counts.items())
