"""A configuration whose nodes are run in this process, without the workflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lofit.config import parse_config
from lofit.methods import load_method
from lofit.nodes import activations as activations_node
from lofit.nodes import evaluate as evaluate_node
from lofit.nodes import fit as fit_node
from lofit.nodes import localize as localize_node
from lofit.nodes import prepare as source_node
from lofit.nodes import select_best as choice
from lofit.plan.nodes import FitNode
from lofit.plan.table import RunTable
from lofit.report.node import collect_results, write_outputs
from tests.checkpoint import save_checkpoint


def tiny_config(folder: Path, methods: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """ListOps on a tiny model, everything below ``folder``; also written there as ``config.yaml``."""
    checkpoint = folder / "checkpoint"
    if not checkpoint.is_dir():
        save_checkpoint(checkpoint)
    config = {
        "models": ["tiny"],
        "model_sources": {"tiny": {"source": {"kind": "local", "path": str(checkpoint)}, "n_layers": 3, "n_heads": 4}},
        "tasks": {"listops": {"options": {"n_train": 8, "n_validation": 4, "n_test": 6}}},
        "methods": methods,
        "results": str(folder / "results"),
        "resources": str(folder / "resources"),
        "device": "cpu",
        "progress": False,
        **changes,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return config


def fitted_table(config: dict[str, Any]) -> RunTable:
    """Everything up to the fits, with test items out of reach: no node but evaluation may so much as open them."""
    made = RunTable(parse_config(config))
    for model in made.config.all_models:
        source_node.fetch(made, model)
    for data in made.data.values():
        source_node.prepare(made, data)
    tests = [made.data_dir(data) / "test.jsonl" for data in made.data.values()]
    for test in tests:
        test.rename(test.with_suffix(".away"))
    fit(made)
    for test in tests:
        test.with_suffix(".away").rename(test)
    return made


def fit(table: RunTable) -> None:
    """Everything up to the fits, where models and data are there."""
    for activations in table.activations.values():
        activations_node.run(table, activations)
    for ranking in table.localize.values():
        localize_node.run(table, ranking)
    for node in table.fits.values():
        if load_method(node.method).fit and node.id not in table.tuned:
            fit_node.run(table, node)
    for tuned in table.tuned.values():
        choice.run(table, tuned)


def run(table: RunTable) -> None:
    """Fits, scores, tables, figures and the report, where models and data are there."""
    fit(table)
    for scored in table.evaluations.values():
        evaluate_node.run(table, scored)
    for part in table.parts():
        collect_results(table, part)
    write_outputs(table)


def find(table: RunTable, method: str) -> FitNode:
    """The first run of a method."""
    return next(node for node in table.fits.values() if node.method == method)
