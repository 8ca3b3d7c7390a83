"""A small comparison without the workflow: every node of a configuration, one after the other, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lofit.config import Config, parse_config
from lofit.errors import ConfigError
from lofit.methods import load_method
from lofit.runs import RunTable
from lofit.sources.catalog import load_catalog
from lofit.sources.models import text_config


def configuration(
    task_dir: Path, model: str, methods: Sequence[str], k: float, seed: int, out: Path, data_mirror: Path | None
) -> Config:
    """The configuration of methods, and the base model, on a task of one's own.

    Args:
        task_dir: folder of JSON lines, or a YAML file that names them.
        model: a name of the catalogue, or a transformers folder.
        methods: what to fit.
        k: heads that methods with selected heads edit: their number, or their share.
        seed: of training.
        out: folder for everything that is written.
        data_mirror: folder that stands in for the network.

    Raises:
        ConfigError: the model is unknown, its folder holds none, or a name cannot be used.
        SourceError: the model's configuration is damaged.
    """
    name = task_dir.stem if task_dir.is_file() else task_dir.resolve().name
    raw: dict[str, Any] = {
        "models": [model],
        "tasks": {name: {"path": str(task_dir)}},
        "methods": {"base": None} | {method: _with_heads(method, k) for method in methods},
        "seeds": [seed],
        "results": str(out),
        "resources": str(out / "resources"),
        "data_mirror": str(data_mirror) if data_mirror else None,
    }
    if model not in load_catalog() and Path(model).is_dir():
        folder = Path(model).resolve()
        raw |= {"models": [folder.name], "model_sources": {folder.name: _model_source(folder)}}
    return parse_config(raw, "train")


def _with_heads(method: str, k: float) -> dict[str, Any] | None:
    from lofit.methods import method_names

    if method not in method_names() or not load_method(method).localizer:
        return None
    return {"heads": {"k": [int(k) if k >= 1 else k]}}


def _model_source(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder}/config.json cannot be read (there is none); give a transformers folder")
    text = text_config(folder)
    return {
        "source": {"kind": "local", "path": str(folder)},
        "n_layers": text.get("num_hidden_layers", text.get("n_layer")),
        "n_heads": text.get("num_attention_heads", text.get("n_head")),
    }


def fetch(table: RunTable) -> None:
    """Fetch the models and prepare the data that are not there yet."""
    from lofit.sources import node as sources

    for model in table.config.models:
        if not (table.model_dir(model) / "source.json").is_file():
            sources.fetch(table, model)
    for data in table.data.values():
        sources.prepare(table, data)  # own files may have changed


def run(table: RunTable) -> None:
    """Run every node that computes, and write the tables, the figures and the report."""
    from lofit.activations import node as activations
    from lofit.evaluate import node as evaluate
    from lofit.fit import choice
    from lofit.fit import node as fit
    from lofit.localize import node as localize
    from lofit.report.node import collect_results, write_outputs

    for reading in table.activations.values():
        activations.run(table, reading)
    for ranking in table.localize.values():
        localize.run(table, ranking)
    for fitted in table.fits.values():
        if load_method(fitted.method).fit and fitted.id not in table.tuned:
            fit.run(table, fitted)
            print(f"{fitted.id}: {fit.summary_line(table.run_dir(fitted))}")
    for tuned in table.tuned.values():
        choice.run(table, tuned)
    for scored in table.evaluations.values():
        evaluate.run(table, scored)
    for part in table.parts():
        collect_results(table, part)
    write_outputs(table)
