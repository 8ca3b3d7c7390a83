"""The fetch node: store a base model as a plain transformers folder."""

from __future__ import annotations

from pathlib import Path

from lofit.files import read_json
from lofit.plan.nodes import ModelNode
from lofit.plan.table import RunTable
from lofit.sources.models import fetch_model


def run(table: RunTable, node: ModelNode) -> None:
    """Write the folder of the model and check that it has the configured numbers of layers and heads.

    Raises:
        ConfigError: the configured or catalogued numbers of layers and heads are not those of the model.
        SourceError: the model cannot be fetched.
    """
    entry = table.config.model_entry(node.model)
    downloads, size = table.config.resources / "downloads", (entry.n_layers, entry.n_heads)
    fetch_model(node.model, entry.source, table.folder(node), cache=downloads, size=size)


def summary_line(folder: Path) -> str:
    """Return one line for the log: the folder of the model and the kind of its source."""
    return f"{folder}, {read_json(folder / 'source.json')['source']['kind']}"
