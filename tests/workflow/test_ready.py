"""Miniatures of the ready configurations: every experiment, table and figure of each, on a tiny random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lofit.config import parse_config
from lofit.plan.kinds import FETCH, PREPARE
from lofit.plan.table import ALL, RunTable
from lofit.report.collect import read_results
from lofit.report.outputs import outputs
from lofit.report.paths import results_path
from tests.checkpoint import save_checkpoint
from tests.fitted import run, run_nodes

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
ROWS = {"n_train": 8, "n_validation": 4, "n_test": 6}
# Without clutrr, whose stories are longer than any method reads once every byte is a token.
TASKS = {"paper": ("truthfulqa", "mquake"), "laptop": ("mquake",), "modern": ("mquake", "siqa", "listops")}


def miniature(name: str, folder: Path, mirror: Path) -> dict[str, Any]:
    """The configuration with a tiny model, fewer tasks, rows and points, and two seeds."""
    config: dict[str, Any] = yaml.safe_load((REPOSITORY / "config" / f"{name}.yaml").read_text())
    checkpoint = save_checkpoint(folder / "checkpoint", max_position_embeddings=4096)
    source = {"kind": "local", "path": str(checkpoint)}
    config |= {
        "models": ["tiny"],
        "model_sources": {"tiny": {"source": source, "n_layers": 3, "n_heads": 4}},
        "tasks": {task: {"folds": [0], "options": dict(ROWS)} for task in TASKS[name]},
        "seeds": config["seeds"][:2],
        "device": "cpu",
        "threads": 2,
        "progress": False,
        "results": str(folder / "results"),
        "resources": str(folder / "resources"),
        "data_mirror": str(mirror),
    }
    if "retention" in config:
        config["retention"] = {"nq_open": {"options": {"n_test": 4}}}
    if config["experiments"].get("data_efficiency"):
        config["experiments"]["data_efficiency"] = {"tasks": ["mquake"], "n_train": [4, 8]}
    return config


@pytest.mark.parametrize("name", TASKS)
def test_a_ready_configuration_runs_whole(name: str, tmp_path: Path, data_mirror: Path) -> None:
    table = RunTable(parse_config(miniature(name, tmp_path, data_mirror)))
    run_nodes(table, FETCH, PREPARE)
    run(table)
    results = read_results(results_path(table, ALL))
    assert (results["status"] == "ok").all()
    assert results["run_id"].nunique() == len({node.fit.id for node in table.evaluations.values()})
    shown = outputs(table)
    assert {output.name for output in shown} >= set(table.config.experiments)
    for output in shown:
        assert output.path(table.config.results).stat().st_size > 0
    page = (table.config.results / "report.html").read_text()
    assert page.count("data:image/png;base64,") == sum(output.kind == "figure" for output in shown)
