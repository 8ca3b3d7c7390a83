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
TASKS = {
    "paper-7b": ("truthfulqa", "mquake"),
    "paper-chat": ("truthfulqa",),
    "laptop": ("mquake",),
    "modern": ("siqa", "listops"),
}


def few(value: Any, key: str = "", tasks: tuple[str, ...] = ()) -> Any:
    """A part of a configuration with the first two values of every grid, and those tasks only."""
    if isinstance(value, dict):
        return {name: few(inner, name, tasks) for name, inner in value.items()}
    if not isinstance(value, list):
        return value
    if key in ("tasks", "task"):
        return [task for task in value if task in tasks]
    return [few(inner, tasks=tasks) for inner in value] if isinstance(value[0], dict) else value[:2]


def miniature(name: str, folder: Path, mirror: Path) -> dict[str, Any]:
    """The configuration with a tiny model, and fewer tasks, rows, points and seeds."""
    whole: dict[str, Any] = yaml.safe_load((REPOSITORY / "config" / f"{name}.yaml").read_text())
    config: dict[str, Any] = few(whole, tasks=TASKS[name])
    given = {task: (whole["tasks"][task] or {}).get("options", {}) for task in TASKS[name]}
    checkpoint = save_checkpoint(folder / "checkpoint", max_position_embeddings=4096)
    source = {"kind": "local", "path": str(checkpoint)}
    config |= {
        "models": ["tiny"],
        "model_sources": {"tiny": {"source": source, "n_layers": 3, "n_heads": 4}},
        "tasks": {task: {"folds": [0], "options": given[task] | ROWS} for task in TASKS[name]},
        "heads_multiple": 1,
        "model_dtypes": {},
        "device": "cpu",
        "threads": 1,
        "progress": False,
        "results": str(folder / "results"),
        "resources": str(folder / "resources"),
        "data_mirror": str(mirror),
    }
    if name != "paper-chat":
        config["seeds"] = [42]  # that one has two
    if name == "modern":
        config["lr_grid"] = None  # the others search
    if "retention" in config:
        config["retention"] = {"nq_open": {"options": {"n_test": 4}}}
    if "judges" in config:
        config["judges"] = {"truth": "tiny", "info": "tiny"}
    config["shared_params"] = [entry for entry in config.get("shared_params", []) if entry.get("task") != []]
    for title, spec in config.get("experiments", {}).items():
        if "data_efficiency" in title:
            spec |= {"tasks": ["mquake"], "n_train": [4, 8]}
        if title == "planted":
            spec["planted"] |= {"k": [1], "n_train": [16], "n_validation": 4, "tokens": 3}
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
