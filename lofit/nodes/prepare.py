"""Prepare the data of one task for one fold and seed: fetch, split, render prompts."""

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
        TaskError: the data does not fit the options.
        SourceError: it cannot be fetched.
    """
    task = table.config.task(node.task)
    fetcher = Fetcher(table.config.resources / "downloads", table.config.data_mirror)
    options = task.Options.model_validate(node.options)
    tasks.prepare_task(task, options, node.fold, node.seed, fetcher, table.folder(node))


def summary_line(folder: Path) -> str:
    """One line for the log: how many rows each split has."""
    counts = read_json(folder / "manifest.json")["counts"]
    return ", ".join(f"{split} {count['kept']}" for split, count in counts.items())
