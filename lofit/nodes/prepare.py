"""The source nodes: fetch a configured model, prepare a configured split."""

from __future__ import annotations

from lofit import registry, tasks
from lofit.errors import ConfigError
from lofit.plan.nodes import DataNode
from lofit.plan.table import RunTable
from lofit.sources.fetcher import Fetcher
from lofit.sources.models import fetch_model


def fetch(table: RunTable, name: str) -> None:
    """Write the model's folder and check that it has the configured shape.

    Raises:
        ConfigError: the model is not configured, or the catalogue's numbers of layers and heads are not its own.
        SourceError: it cannot be fetched.
    """
    config = table.config
    if name not in config.all_models:
        raise ConfigError(registry.unknown("model", name, config.all_models))
    entry, folder = config.model_entry(name), table.model_dir(name)
    size = entry.n_layers, entry.n_heads
    fetch_model(name, entry.source, folder, cache=config.resources / "downloads", size=size)


def prepare(table: RunTable, node: DataNode) -> None:
    """Write the splits of one task, fold and seed.

    Raises:
        TaskError: the data does not fit the options.
        SourceError: it cannot be fetched.
    """
    task = table.config.task(node.task)
    fetcher = Fetcher(table.config.resources / "downloads", table.config.data_mirror)
    options = task.Options.model_validate(node.options)
    tasks.prepare_task(task, options, node.fold, node.seed, fetcher, table.data_dir(node))
