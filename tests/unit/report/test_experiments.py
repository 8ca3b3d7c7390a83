"""Experiments end to end on a tiny model: which runs they are, what is written of them, and what failure looks like."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from lofit.config import parse_config
from lofit.errors import ConfigError
from lofit.evaluate import node as evaluate_node
from lofit.experiments import builtin_names
from lofit.localize.ranking import top_heads
from lofit.report.compare import compare
from lofit.report.experiments import layer_counts, write_experiment
from lofit.report.figures import draw_curves, draw_layers, draw_pareto
from lofit.report.node import collect_results, comparison
from lofit.report.paths import results_path
from lofit.runs import ALL, RunTable
from tests.fitted import fitted_table, tiny_config

TRAINING = {"epochs": 1, "lr": 0.05}
HEADS = {"k": [3], "params": TRAINING}
LOFIT = {"method": "lofit", "heads": HEADS, "params": TRAINING}
LORA = {"method": "lora", "params": TRAINING}
EXPERIMENTS: dict[str, Any] = {
    "peft": {"arms": {"base": {"method": "base"}, "LoFiT": LOFIT, "LoRA": LORA}},
    "head_selection": {"arms": {"LoFiT": LOFIT, "random": {**LOFIT, "heads": {"k": [3], "localizer": "random"}}}},
    "data_efficiency": {"n_train": [4, 8], "arms": {"LoFiT": LOFIT, "LoRA": LORA}},
    "head_fraction": {"k": [0.1, 0.25], "arms": {"LoFiT": LOFIT}},
    "layers": {"arms": {"LoFiT": LOFIT}},
    "mine": {"kind": "pareto", "title": "Mine", "arms": {"LoFiT": LOFIT, "LoRA": LORA}},
}
METHODS = {"base": None, "lofit": {"heads": HEADS, "params": TRAINING}}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RunTable:
    folder = tmp_path_factory.mktemp("experiments")
    made = fitted_table(tiny_config(folder, METHODS, experiments=EXPERIMENTS, seeds=[1, 2]))
    for node in made.evaluations.values():
        evaluate_node.run(made, node)
    for part in made.parts():
        collect_results(made, part)
    for name in EXPERIMENTS:
        write_experiment(made, name)
    return made


def test_runs_that_experiments_share_exist_once(table: RunTable) -> None:
    by_arm = {
        (name, arm.label, arm.x, arm.fit.seed): arm.fit.id for name, arms in table.experiments.items() for arm in arms
    }
    own = {node.id for node in table.comparison.values()}
    for seed in (1, 2):
        same = {by_arm[name, "LoFiT", x, seed] for name, x in (
            ("peft", None), ("head_selection", None), ("layers", None), ("mine", None),
            ("data_efficiency", 8), ("head_fraction", 0.25),
        )}  # fmt: skip
        assert len(same) == 1
        assert same < own
    # 4 lofit (8 examples: 3 heads and 1, random heads; 4 examples), 2 lora; of base one seed.
    assert len(table.fits) == 2 * 6 + 1
    assert len(set(by_arm.values())) == len(table.fits)


def test_tables_have_a_line_per_arm_and_the_main_table_only_the_methods(table: RunTable) -> None:
    frame = pd.read_csv(table.config.results / "tables" / "peft.csv")
    assert frame["method"].tolist() == ["base", "LoFiT", "LoRA"]
    assert frame["seeds"].tolist() == [1, 2, 2]
    text = (table.config.results / "tables" / "peft.md").read_text()
    assert text.startswith("**LoFiT on 10% of the heads against parameter-efficient fine-tuning (LoFiT, Table 3)**")
    assert "(LoFiT, Table 3). Percent" in (table.config.results / "tables" / "peft.tex").read_text()
    assert comparison(table, "paper")["method"].tolist() == ["base", "lofit (3 heads)"]


def test_curves_hold_the_scores_of_the_runs(table: RunTable) -> None:
    results = pd.read_parquet(results_path(table, ALL)).set_index("run_id")
    frame = pd.read_csv(table.config.results / "figures" / "data_efficiency.csv")
    assert frame[["arm", "x"]].to_numpy().tolist() == [["LoFiT", 4], ["LoRA", 4], ["LoFiT", 8], ["LoRA", 8]]
    for line in frame.to_dict("records"):
        runs = [
            arm.fit.id for arm in table.experiments["data_efficiency"] if (arm.label, arm.x) == (line["arm"], line["x"])
        ]
        scores = results.loc[runs].query("metric == 'exact_match'")
        assert (line["n_seeds"], line["n_items"]) == (2, 6)
        assert line["value"] == pytest.approx(scores["value"].mean())
        assert 0 <= line["low"] <= line["value"] <= line["high"] <= 1
        assert line["trained_params"] == scores["trained_params"].mean()
        cost = scores[["localize_seconds", "fit_seconds"]].astype(float).sum(axis=1).mean()
        assert line["seconds"] == pytest.approx(cost)


def test_layers_are_those_of_the_rankings(table: RunTable) -> None:
    counts = layer_counts(table, "layers").set_index("layer")["share"]
    expected = np.zeros(3)
    for arm in table.experiments["layers"]:
        assert arm.fit.heads_from
        for layer, _ in top_heads(table.localize_dir(arm.fit.heads_from) / "heads.parquet", 3):
            expected[layer] += 1 / 6
    assert counts.to_numpy() == pytest.approx(expected)
    assert counts.sum() == pytest.approx(1)


def test_arms_are_compared_on_the_items_of_their_runs(table: RunTable) -> None:
    found = compare(table, "peft", against="base")
    assert found[["arm", "against"]].to_numpy().tolist() == [["LoFiT", "base"], ["LoRA", "base"]]
    scores = pd.read_csv(table.config.results / "tables" / "peft.csv").set_index("method")["listops.percent"]
    assert found["difference"].to_numpy() == pytest.approx((scores[["LoFiT", "LoRA"]] - scores["base"]).to_numpy())
    assert (found["items"] == 6).all()
    assert compare(table, "data_efficiency")["x"].tolist() == [4, 8]
    assert compare(table, "head_fraction")[["arm", "against"]].to_numpy().tolist() == [["0.1", "0.25"]]


@pytest.mark.parametrize(
    ("name", "against", "message"),
    [
        ("layers", None, "no experiment 'layers' with scores; this configuration has: peft, head_selection"),
        ("pefd", None, "no experiment 'pefd' with scores"),
        ("peft", "lofit", r"experiments\.peft has no arm 'lofit'; it has: base, LoFiT, LoRA"),
    ],
)
def test_a_comparison_that_cannot_be_is_one_clear_line(
    table: RunTable, name: str, against: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(table, name, against)


def test_every_figure_is_there_and_not_blank(table: RunTable) -> None:
    for name in ("data_efficiency", "head_fraction", "layers", "mine"):
        stem = table.config.results / "figures" / name
        assert stem.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
        assert imread(stem.with_suffix(".png"))[..., :3].std() > 0.02


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()  # ticks get their labels
    return [artist.get_text().replace("\n", " ") for artist in figure.findobj(Text)]


def points(*lines: tuple[str, str, float, float]) -> pd.DataFrame:
    columns = ["task", "arm", "x", "value"]
    frame = pd.DataFrame(lines, columns=columns).assign(model="m", n_items=10, note="", seconds=2.0)
    known = frame["value"].notna()
    return frame.assign(
        low=frame["value"] - 0.1,
        high=frame["value"] + 0.1,
        n_seeds=known.astype(int),
        status=np.where(known, "ok", "failed"),
        trained_params=100 * frame["x"],
    )


def test_failed_points_are_named_not_left_blank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("lofit.report.figures.save_figure", lambda figure, stem: drawn.append(figure) or [])
    frame = points(("a", "one", 0.1, 0.5), ("a", "one", 0.2, math.nan), ("a", "two", 0.1, 0.4), ("b", "two", 0.1, 0.4))
    draw_curves(frame, tmp_path / "f", title="T", axis="k", metrics={"a": "acc", "b": "acc"})
    assert {"one: failed", "share of heads (%)", "acc (%)", "10", "20"} <= set(texts(drawn[0]))
    draw_pareto(frame, tmp_path / "g", title="T")
    assert any("Not drawn: one on m (no score on b)" in text for text in texts(drawn[1]))
    assert pd.read_csv(tmp_path / "g.csv")["arm"].tolist() == ["two"]


def test_layers_of_many_tasks_fit(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        [
            {"model": "m", "task": f"task{t}", "arm": "LoFiT", "layer": layer, "share": 1 / 32, "n_rankings": 2}
            for t in range(7)
            for layer in range(32)
        ]
    )
    assert [path.suffix for path in draw_layers(frame, tmp_path / "layers", title="T")] == [".pdf", ".png", ".csv"]


def test_the_packages_experiments_are_valid_and_run_on_the_default_model() -> None:
    config = parse_config(
        {
            "models": ["smollm2-135m"],
            "tasks": {"listops": None, "siqa": None},
            "methods": {"base": None},
            "experiments": dict.fromkeys(builtin_names()),
            "seeds": [42, 43],
        }
    )
    table = RunTable(config)
    assert set(table.experiments) == set(builtin_names())
    assert all(table.experiments.values())
    assert len(table.fits) < sum(len({arm.fit.id for arm in arms}) for arms in table.experiments.values())


BROKEN = {
    "unknown experiment": ({"pefft": None}, "experiments.pefft: not one of the package's"),
    "unknown method": (
        {"peft": {"arms": {"x": {"method": "lorra"}}}},
        "experiments.peft.arms.x.method: unknown method",
    ),
    "two axes": ({"head_fraction": {"k": [3], "n_train": [4]}}, "a curve runs over k or over n_train"),
    "axis of a table": ({"peft": {"k": [3]}}, "only a curve runs over it"),
    "heads of a method without": ({"head_fraction": {"arms": {"x": LORA}}}, "does not select heads"),
    "several numbers of heads": (
        {"peft": {"arms": {"x": {"method": "lofit", "heads": {"k": [3, 4]}}}}},
        "an arm is one run",
    ),
    "hyperparameter": (
        {"peft": {"arms": {"x": {"method": "lora", "params": {"rr": 1}}}}},
        "experiments.peft.arms.x.params",
    ),
    "reserved": ({"main": {"kind": "table", "arms": {"x": LORA}}}, "outputs of that name exist"),
    "task": ({"peft": {"tasks": ["siqaa"]}}, "experiments.peft.tasks: unknown task"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_experiment_is_one_clear_line(name: str) -> None:
    given, message = BROKEN[name]
    raw = {"models": ["smollm2-135m"], "tasks": {"listops": None}, "methods": {"base": None}, "experiments": given}
    with pytest.raises(ConfigError) as caught:
        parse_config(json.loads(json.dumps(raw)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
