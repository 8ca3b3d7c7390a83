"""Fetch a base model into a plain transformers folder."""

from __future__ import annotations

from pathlib import Path

from lofit.files import read_json
from lofit.plan.nodes import ModelNode
from lofit.plan.table import RunTable
from lofit.sources.models import fetch_model


def run(table: RunTable, node: ModelNode) -> None:
    """Write the model's folder and check that it has the configured shape.

    Raises:
        ConfigError: the catalogue's numbers of layers and heads are not its own.
        SourceError: it cannot be fetched.
    """
    entry = table.config.model_entry(node.model)
    downloads, size = table.config.resources / "downloads", (entry.n_layers, entry.n_heads)
    fetch_model(node.model, entry.source, table.folder(node), cache=downloads, size=size)


def summary_line(folder: Path) -> str:
    """One line for the log: where the model is, and where it is from."""
    return f"{folder}, {read_json(folder / 'source.json')['source']['kind']}"
