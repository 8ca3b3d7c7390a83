"""What nodes ask of a scheduler: more for larger models, for training all weights, and at every attempt."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lofit.config import load_config, parse_config
from lofit.plan.kinds import KINDS
from lofit.plan.nodes import EvalNode, FitNode
from lofit.plan.resources import (
    LIGHT_MB,
    START_MINUTES,
    UNKNOWN_BILLIONS,
    UNKNOWN_MINUTES,
    memory_mb,
    runtime_minutes,
)
from lofit.plan.table import RunTable

REPOSITORY = Path(__file__).parents[2]
ROWS = {"n_train": 100, "n_validation": 20, "n_test": 50}
MEASURED_MB = 1620
"""Peak of a training step of smollm2-135m in float32 (perf/results.md)."""


def made(billions: float | None = None, **changes: Any) -> RunTable:
    source = {"source": {"kind": "local", "path": "m"}, "n_layers": 32, "n_heads": 32, "billions": billions}
    config = {
        "models": ["mine"],
        "model_sources": {"mine": source},
        "tasks": {"siqa": {"options": ROWS}},
        "methods": {"base": None, "lofit": None, "full": {"params": {"lr": 1e-5}}},
        "device": "cpu",
        **changes,
    }
    return RunTable(parse_config(config))


def fit(table: RunTable, method: str) -> FitNode:
    return next(node for node in table.fits.values() if node.method == method)


def evaluation(table: RunTable, method: str) -> EvalNode:
    return table.own_evaluation(fit(table, method))


def test_memory_holds_what_was_measured_and_little_for_a_tiny_model() -> None:
    small = made(0.1345)
    for node in (fit(small, "lofit"), *small.localize.values(), evaluation(small, "base")):
        assert 1.5 * MEASURED_MB < memory_mb(small, node) < 6000
    tiny = made(0.0001)
    assert 1000 <= memory_mb(tiny, fit(tiny, "lofit")) < 2000


def test_memory_grows_with_the_model_and_holds_its_weights() -> None:
    sizes = [memory_mb(table, fit(table, "lofit")) for table in map(made, (0.1, 1.0, 7.0, 13.0))]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 13_000 * 4
    on_gpu = made(7.0, device="cuda")
    assert 7000 * 2 < memory_mb(on_gpu, fit(on_gpu, "lofit")) < memory_mb(made(7.0), fit(made(7.0), "lofit"))


def test_training_all_weights_needs_gradients_and_moments_and_a_copy_to_save_them() -> None:
    def more(**config: Any) -> float:
        table = made(7.0, **config)
        return (memory_mb(table, fit(table, "full")) - memory_mb(table, fit(table, "lofit"))) / 7000

    assert more(training={"save_minutes": None}) == 3 * 4
    assert more() == 3 * 4 + 3 * 4
    assert more(methods={"lofit": None, "full": {"params": {"keep": "best"}}}) == 3 * 4 + 4 * 4 + 4
    assert more(device="cuda") == 2 + 3 * 4


def test_judges_that_are_larger_than_the_model_count() -> None:
    config = {
        "tasks": {"truthfulqa": {"folds": [0]}},
        "methods": {"base": None},
        "protocols": ["paper", "open"],
        "judges": {},
    }
    table = made(0.1, **config)
    paper, judged = sorted(table.evaluations.values(), key=lambda node: node.protocol == "open")
    assert memory_mb(table, judged) > 4 * 6740 > memory_mb(table, paper)


def test_what_compares_or_copies_whole_models_has_room_for_two() -> None:
    retained = ("wikitext", "mmlu")
    table = made(7.0, retention=dict.fromkeys(retained))
    for task in retained:
        other = {node.fit.method: node for node in table.evaluations.values() if node.data.task == task}
        assert memory_mb(table, other["full"]) - memory_mb(table, other["lofit"]) == 4 * 7000
    served = made(7.0, device="cuda", backend="vllm")
    ours = made(7.0, device="cuda")
    assert memory_mb(served, evaluation(served, "lofit")) - memory_mb(ours, evaluation(ours, "lofit")) == 2 * 7000


def test_time_grows_with_the_work_and_shrinks_with_the_threads() -> None:
    def minutes(table: RunTable, method: str) -> int:
        return runtime_minutes(table, fit(table, method)) - START_MINUTES

    large = made(7.0)
    assert 0 < minutes(made(0.1), "lofit") < minutes(large, "lofit") < minutes(large, "full")
    assert math.isclose(minutes(large, "full") / minutes(made(7.0, threads=8), "full"), 4, rel_tol=0.05)
    assert minutes(made(7.0, device="cuda"), "lofit") < minutes(large, "lofit") / 10


def test_every_attempt_asks_for_more() -> None:
    table = made(1.0)
    for node in (*table.models.values(), *table.data.values(), *table.fits.values(), *table.evaluations.values()):
        assert memory_mb(table, node, 3) == 3 * memory_mb(table, node)
        assert runtime_minutes(table, node, 3) == 3 * runtime_minutes(table, node)


def test_a_model_of_unknown_size_is_taken_for_a_large_one() -> None:
    unknown, large = made(None), made(UNKNOWN_BILLIONS)
    assert memory_mb(unknown, fit(unknown, "lofit")) == memory_mb(large, fit(large, "lofit"))
    assert runtime_minutes(unknown, fit(unknown, "lofit"), 2) == 2 * UNKNOWN_MINUTES


def test_only_converting_a_model_needs_room_for_its_weights() -> None:
    table = made(7.0, models=["mine", "smollm2-135m", "smollm2-135m-hub"])
    wanted = {node.model: memory_mb(table, node) for node in table.models.values()}
    assert wanted["mine"] == wanted["smollm2-135m-hub"] == LIGHT_MB
    assert wanted["smollm2-135m"] > LIGHT_MB + 3 * 500


@pytest.mark.parametrize("name", ["paper", "modern", "laptop", "laptop-short"])
def test_nodes_of_the_ready_configurations_have_limits(name: str) -> None:
    table = RunTable(load_config(REPOSITORY / "config" / f"{name}.yaml"))
    for nodes in (table.activations, table.localize, table.fits, table.evaluations):
        for node in list(nodes.values())[:50]:
            assert 1000 < memory_mb(table, node) < 500_000
            assert START_MINUTES <= runtime_minutes(table, node) < 14 * 24 * 60


def test_rules_ask_for_what_the_nodes_need(tmp_path: Path) -> None:
    file = REPOSITORY / "config" / "smoke.yaml"
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "2", "--configfile", str(file)]
    command += ["--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    asked: dict[str, set[str]] = {}
    rule = ""
    for line in (result.stdout + result.stderr).splitlines():
        if line.startswith(("rule ", "localrule ")):
            rule = line.split()[1].rstrip(":")
        elif line.strip().startswith("resources:"):
            asked.setdefault(rule, set()).add(line.split("resources:")[1])
    table = RunTable(load_config(file))
    for kind in KINDS:
        for node in kind.nodes(table).values():
            wanted = {f"mem_mb={memory_mb(table, node)}", f"runtime={runtime_minutes(table, node)}"}
            assert any(wanted <= set(line.replace(",", " ").split()) for line in asked[kind.name]), (
                wanted,
                asked[kind.name],
            )
    assert f"mem_mb={LIGHT_MB}" in "".join(asked["collect"])


def test_a_custom_task_has_the_time_of_an_unknown_one() -> None:
    """Four characters a token is too few for many languages, and a limit that is too low kills a job."""
    own = made(0.001, tasks={"opposites": {"path": str(REPOSITORY / "examples" / "opposites")}})
    assert runtime_minutes(own, fit(own, "lofit")) == runtime_minutes(own, evaluation(own, "base")) == UNKNOWN_MINUTES
