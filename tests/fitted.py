"""A configuration whose nodes are run in this process, without the workflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lofit.config import parse_config
from lofit.nodes import module_of
from lofit.plan.kinds import CAPTURE, EFFECTS, EVALUATE, FETCH, FIT, LOCALIZE, PLANT, PREPARE, SELECT_BEST, NodeKind
from lofit.plan.nodes import FitNode
from lofit.plan.table import RunTable
from lofit.report.outputs import outputs
from lofit.report.page import write_report
from lofit.report.parts import collect_results
from tests.checkpoint import save_checkpoint


def tiny_config(folder: Path, methods: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """ListOps on a tiny model, as in the recipes, everything below ``folder``; also written there as a file."""
    checkpoint = folder / "checkpoint"
    if not checkpoint.is_dir():
        save_checkpoint(checkpoint)
    config = {
        "models": ["tiny"],
        "model_sources": {"tiny": {"source": {"kind": "local", "path": str(checkpoint)}, "n_layers": 3, "n_heads": 4}},
        "tasks": {"listops": {"options": {"n_train": 8, "n_validation": 4, "n_test": 6}}},
        "methods": methods,
        "lr_grid": None,
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
    run_nodes(made, FETCH, PREPARE)
    tests = [made.folder(data) / "test.jsonl" for data in made.data.values()]
    for test in tests:
        test.rename(test.with_suffix(".away"))
    fit(made)
    for test in tests:
        test.with_suffix(".away").rename(test)
    return made


def run_nodes(table: RunTable, *kinds: NodeKind) -> None:
    """All nodes of some kinds."""
    for kind in kinds:
        for node in kind.nodes(table).values():
            module_of(kind).run(table, node)


def fit(table: RunTable) -> None:
    """Everything up to the fits, where models and data are there."""
    run_nodes(table, EFFECTS, PLANT, CAPTURE, LOCALIZE, FIT, SELECT_BEST)


def run(table: RunTable) -> None:
    """Fits, scores, tables, figures and the report, where models and data are there."""
    fit(table)
    run_nodes(table, EVALUATE)
    for part in table.parts():
        collect_results(table, part)
    write_outputs(table)


def write_outputs(table: RunTable, *names: str) -> None:
    """Tables and figures of some names; without names all, and the report."""
    for output in outputs(table):
        if not names or output.name in names:
            output.write(table)
    if not names:
        write_report(table)


def find(table: RunTable, method: str) -> FitNode:
    """The first run of a method."""
    return next(node for node in table.fits.values() if node.method == method)
