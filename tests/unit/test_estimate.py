"""Estimates of `lofit plan`: operations from first principles, and every shipped configuration is counted."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from lofit.cli.app import app
from lofit.config import load_config, parse_config
from lofit.plan.estimate import FORKED_SECONDS, START_SECONDS, Cost, costs
from lofit.plan.kinds import counts
from lofit.plan.table import RunTable
from lofit.sources.catalog import load_catalog
from lofit.sources.fetcher import Fetcher
from lofit.tasks import load_task, task_names
from lofit.tasks.custom.table import Description
from lofit.tasks.sizes import task_sizes

REPOSITORY = Path(__file__).parents[2]
OFFICIAL = {
    "aqua": (97467, 254),
    "arc_challenge": (1119, 1172),
    "boolq": (9427, 3270),
    "gsm8k": (7473, 1319),
    "mmlu": (0, 14042),
    "nq_open": (0, 3610),
    "nq_open_mc": (0, 3610),
    "openbookqa": (4957, 500),
    "siqa": (33410, 1954),
    "svamp": (700, 300),
    "triviaqa": (0, 17944),
    "triviaqa_mc": (0, 3610),
    "wikitext": (0, 62),
    "winogrande": (40398, 1267),
}
"""Rows to train on, and of the split that is the test split here, as published; the others come with the task."""
ROWS = {"n_train": 100, "n_validation": 20, "n_test": 50}


def found(methods: dict[str, Any], **changes: Any) -> dict[str, Cost]:
    config = {"models": ["llama-2-7b"], "tasks": {"siqa": {"options": ROWS}}, "methods": methods, "lr_grid": None}
    config |= changes
    made, unknown = costs(RunTable(parse_config(config)))
    assert unknown == []
    return made


def test_operations_are_those_of_the_passes() -> None:
    size, parameters = task_sizes()["siqa"], 6.74e9
    row, item = size["row_tokens"], size["item_tokens"]
    trained = found({"lora": {"params": {"epochs": 3}}})
    # 3 epochs of 100 rows, forward and back through frozen weights; before and after each, 20 rows forward
    assert trained["fit"].operations == pytest.approx(parameters * row * (3 * 100 * 4 + 4 * 20 * 2))
    assert trained["evaluate"].operations == pytest.approx(parameters * item * 50 * 2)
    scored = found({"lora": {"params": {"epochs": 3}}}, training={"validate_by": "metric"})
    assert scored["fit"].operations - trained["fit"].operations == pytest.approx(parameters * item * 4 * 20 * 2)
    full = found({"full": {"params": {"epochs": 3}}})
    assert full["fit"].operations == pytest.approx(parameters * row * (3 * 100 * 6 + 4 * 20 * 2))
    strengths = {"iti": {"heads": {"k": [10, 20]}, "params": {"alpha": [1, 2, 3]}}}
    estimated, by_metric = found(strengths, select_by="loss"), found(strengths)
    assert estimated["fit"].operations == pytest.approx(parameters * row * 6 * 20 * 2)
    assert by_metric["fit"].operations == pytest.approx(parameters * (row + item) * 6 * 20 * 2)
    assert estimated["capture"].operations == pytest.approx(parameters * row * 120 * 2)
    assert estimated["localize"].operations == 0
    assert "fit" not in found({"base": None})
    prompted = found({"fewshot": {"params": {"shots": 3}}})
    assert prompted["evaluate"].operations == pytest.approx(parameters * (item + 3 * row) * 50 * 2)
    # At 100 TFLOP/s; 6.74e9 parameters of 2 bytes at 1 GB/s, unless a server has read them
    computing, alone = parameters * item * 50 * 2 / 1e14, found({"base": None}, node_server=False)
    assert trained["evaluate"].hours(100) == pytest.approx((computing + FORKED_SECONDS) / 3600)
    assert alone["evaluate"].hours(100) == pytest.approx((computing + START_SECONDS + 13.48) / 3600)


def test_settings_of_a_search_count() -> None:
    one, four = (found({"lora": {"search": {"params": {"lr": rates}}}}) for rates in ([1, 2], [1, 2, 3, 4]))
    assert four["fit"].operations == pytest.approx(2 * one["fit"].operations)
    assert four["select_best"].operations == 0
    gridded = found({"lora": {}}, lr_grid=[1, 2, 3, 4])  # of which one more may be tried
    assert gridded["fit"].operations == four["fit"].operations
    assert gridded["select_best"].operations == pytest.approx(four["fit"].operations / 4)
    assert four["evaluate"].operations == one["evaluate"].operations


def test_what_is_not_known_is_named() -> None:
    source = {"source": {"kind": "local", "path": "m"}, "n_layers": 2, "n_heads": 2}
    config = {"models": ["mine"], "model_sources": {"mine": source}, "tasks": {"siqa": None}, "methods": {"base": None}}
    made, unknown = costs(RunTable(parse_config(config)))
    assert unknown == ["mine"]
    assert made["evaluate"].operations == 0
    config["model_sources"] = {"mine": source | {"billions": 1.0}}
    assert costs(RunTable(parse_config(config)))[1] == []


def test_sizes_of_the_catalogue_and_of_all_tasks_are_known() -> None:
    assert all(entry.billions for entry in load_catalog().values())
    assert set(task_names()) == set(task_sizes())


def test_rankings_by_the_gradient_are_one_pass_and_exact_ones_one_for_every_head() -> None:
    """Of 1,024 heads; those that are computed from activations take nothing further."""
    row, parameters = task_sizes()["siqa"]["row_tokens"], 6.74e9

    def ranking(localizer: str, **params: Any) -> float:
        heads = {"localizer": localizer, "k": [16], "params": params}
        return found({"lofit": {"heads": heads}})["localize"].operations

    assert ranking("ablation") == ranking("attribution") == pytest.approx(parameters * row * 100 * 4)
    assert ranking("ablation", exact=True) == pytest.approx(1024 * ranking("ablation"))
    assert ranking("sadi") == 0


def test_rows_of_own_files_are_counted(tmp_path: Path) -> None:
    """A fifth of 40 rows is the test split, a tenth of the others is set aside; a token is 4 characters."""
    rows = [{"text": f"a text that is numbered {i:02}", "mood": "good" if i % 2 else "bad"} for i in range(40)]
    pd.DataFrame(rows).to_csv(tmp_path / "own.csv", index=False)
    read = {"prompt": "{text}", "label": "mood"}
    task = {"path": str(tmp_path / "own.csv"), "read": read}
    made = found({"lora": {"params": {"epochs": 1}}}, tasks={"own": task})
    split = load_task("own", Path(task["path"]), Description.model_validate(read)).prepare(
        None, 0, 0, Fetcher(tmp_path, None)
    )
    sizes = {name: len(getattr(split, name)) for name in ("train", "validation", "test")}
    assert sizes == {"train": 29, "validation": 3, "test": 8}
    tokens = made["evaluate"].operations / (6.74e9 * 2 * 8)
    assert tokens == pytest.approx((len(rows[0]["text"]) // 4) + 2)  # prompt, and two choices of 4 or 5 characters
    fewer = found({"lora": {"params": {"epochs": 1}}}, tasks={"own": task | {"options": {"n_test": 4}}})
    assert fewer["evaluate"].operations == pytest.approx(made["evaluate"].operations / 2)


@pytest.mark.parametrize("name", task_sizes())
def test_rows_are_the_official_ones_or_were_counted(name: str) -> None:
    size = task_sizes()[name]
    train, validation, test = (size[split] for split in ("train", "validation", "test"))
    assert set(size) <= {"train", "validation", "test", "row_tokens", "item_tokens", "source", "tokens"}
    assert size["item_tokens"] > 0
    assert (size.get("row_tokens", 0) > 0) == (train > 0) == bool(load_task(name).objective)
    if name not in OFFICIAL:
        assert "source" not in size
        return
    official = OFFICIAL[name]
    assert test == official[1]
    assert 0.99 * official[0] <= train + validation <= official[0]  # few texts are in two official splits
    assert validation == pytest.approx(official[0] / 10, rel=0.02)


def test_counting_again_keeps_official_rows() -> None:
    spec = importlib.util.spec_from_file_location("count_tokens", REPOSITORY / "scripts" / "count_tokens.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    counted = {"train": 9, "validation": 1, "test": 5, "item_tokens": 3.0}
    known = {"train": 90, "validation": 10, "test": 50, "item_tokens": 2.0, "tokens": "a guess"}
    assert script.updated({}, counted) == script.updated(known, counted) == counted
    official = {"train": 90, "validation": 10, "test": 50, "source": "its card"}
    assert script.updated(known | official, counted) == official | {"item_tokens": 3.0}


@pytest.mark.parametrize("name", ["paper", "modern", "laptop", "laptop-short"])
def test_plan_prints_nodes_and_hours_of_the_ready_configurations(name: str) -> None:
    file = REPOSITORY / "config" / f"{name}.yaml"
    result = CliRunner().invoke(app, ["plan", "--configfile", str(file)])
    assert result.exit_code == 0, result.output
    found = counts(RunTable(load_config(file)))
    assert costs(RunTable(load_config(file)))[1] == []
    assert f"{sum(found.values()):,} nodes; about " in result.output
    assert (" of one GPU at " in result.output) == (not name.startswith("laptop"))
    for kind, count in found.items():
        line = next(line for line in result.output.splitlines() if line.startswith(f"│ {kind} "))
        assert f" {count:,} " in line
