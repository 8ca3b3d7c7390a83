"""Experiments end to end on a tiny model: which runs they are, what is written of them, and what failure looks like."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from typer.testing import CliRunner

from lofit.cli.app import app
from lofit.config import parse_config
from lofit.errors import ConfigError
from lofit.experiments import builtin_names
from lofit.files import atomic_path, write_json
from lofit.nodes import evaluate as evaluate_node
from lofit.plan.table import ALL, RunTable
from lofit.rankings.ranking import rank_heads, top_heads
from lofit.report import experiments
from lofit.report.compare import compare, markdown
from lofit.report.experiments import layer_counts
from lofit.report.figures import draw_curves, draw_layers, draw_pareto, pareto_front
from lofit.report.main import comparison
from lofit.report.parts import collect_results
from lofit.report.paths import results_path
from lofit.report.style import save_figure
from tests.fitted import fitted_table, tiny_config, write_outputs
from tests.unit.report import frames
from tests.unit.report.frames import plain, scored

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
    options = {"experiments": EXPERIMENTS, "seeds": [1, 2], "transfer": {"k": 3, "random_row": True}}
    made = fitted_table(tiny_config(folder, METHODS, **options))
    for node in made.evaluations.values():
        evaluate_node.run(made, node)
    for part in made.parts():
        collect_results(made, part)
    write_outputs(made, "transfer", *EXPERIMENTS)
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


def test_the_transfer_map_has_a_row_of_the_random_heads_of_the_experiment(table: RunTable) -> None:
    cells = pd.read_csv(table.config.results / "figures" / "transfer.csv").set_index("head_task")
    arms = pd.read_csv(table.config.results / "tables" / "head_selection.csv").set_index("method")["listops.percent"]
    assert list(cells.index) == ["listops", "random heads"]
    assert 100 * cells["value"].to_numpy() == pytest.approx(arms[["LoFiT", "random"]].to_numpy())
    assert (cells["n_seeds"] == 2).all()


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


def test_means_over_tasks_have_the_interval_of_their_items(table: RunTable) -> None:
    means = pd.read_csv(table.config.results / "figures" / "mine.csv")
    assert means["arm"].tolist() == ["LoFiT", "LoRA"]
    assert (means["n_items"] == 6).all()
    assert (means["low"] <= means["value"]).all()
    assert (means["value"] < means["high"]).all()
    assert (means["low"] >= 0).all()


def test_layers_are_those_of_the_rankings(table: RunTable) -> None:
    found = layer_counts(table, "layers").set_index("layer")
    assert (found[["n_rankings", "n_seeds", "n_folds"]] == [2, 2, 1]).all(axis=None)
    assert (found["note"] == "").all()
    counts = found["share"]
    expected = np.zeros(3)
    for arm in table.experiments["layers"]:
        assert arm.fit.ranking
        for layer, _ in top_heads(table.folder(arm.fit.ranking) / "heads.parquet", 3):
            expected[layer] += 1 / 6
    assert counts.to_numpy() == pytest.approx(expected)
    assert counts.sum() == pytest.approx(1)


def test_arms_are_compared_on_the_items_of_their_runs(table: RunTable) -> None:
    found, absent = compare(table, "peft", against="base")
    assert absent == []
    assert found[["arm", "against"]].to_numpy().tolist() == [["LoFiT", "base"], ["LoRA", "base"]]
    scores = pd.read_csv(table.config.results / "tables" / "peft.csv").set_index("method")["listops.percent"]
    assert found["difference"].to_numpy() == pytest.approx((scores[["LoFiT", "LoRA"]] - scores["base"]).to_numpy())
    assert (found["items"] == 6).all()
    assert compare(table, "data_efficiency")[0]["x"].tolist() == [4, 8]
    assert compare(table, "head_fraction")[0][["arm", "against"]].to_numpy().tolist() == [["0.1", "0.25"]]
    methods, _ = compare(table, "main", against="base")
    scores = comparison(table, "paper").set_index("method")["listops.percent"]
    assert list(methods["arm"]) == [name for name in scores.index if name != "base"]
    assert methods["difference"].to_numpy() == pytest.approx((scores[methods["arm"]] - scores["base"]).to_numpy())
    file = table.config.results.parent / "config.yaml"
    result = CliRunner().invoke(app, ["compare", "peft", "--against", "base", "--configfile", str(file)])
    assert result.exit_code == 0, result.output
    assert result.output == markdown(found) + "\n"


@pytest.mark.parametrize(
    ("name", "against", "message"),
    [
        ("layers", None, "no experiment 'layers' with scores; this configuration has: main, peft, head_selection"),
        ("pefd", None, "no experiment 'pefd' with scores"),
        ("peft", "lofit", "unknown arm of peft 'lofit'; choose from: LoFiT, LoRA, base"),
    ],
)
def test_a_comparison_that_cannot_be_is_one_clear_line(
    table: RunTable, name: str, against: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(table, name, against)


def test_a_failed_run_costs_nothing_and_so_does_not_count() -> None:
    runs = [plain("clutrr", 0.5, seed=seed, fit_seconds=120.0, localize_seconds=0.0) for seed in (0, 1)]
    runs.append(plain("clutrr", None, seed=2))
    rows = frames.results(*runs).assign(variant="LoRA", x=np.nan)
    [line] = experiments.points(rows, frames.HEADLINE, scored(*((run, [0.0, 1.0]) for run in runs[:2]))).to_dict(
        "records"
    )
    assert (line["status"], line["n_seeds"], line["seconds"]) == ("partial", 2, 120)


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
    frame = pd.DataFrame(lines, columns=columns).assign(model="m", n_items=10, seconds=2.0)
    known = frame["value"].notna()
    return frame.assign(
        low=frame["value"] - 0.1,
        high=frame["value"] + 0.1,
        n_seeds=known.astype(int),
        status=np.where(known, "ok", "failed"),
        note=np.where(known, "", "seed 1 failed: out of memory"),
        trained_params=100 * frame["x"],
    )


def test_failed_points_are_named_not_left_blank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("lofit.report.figures.save_figure", lambda figure, stem: drawn.append(figure) or [])
    lines = [("a", "one", 0.1, 0.5), ("a", "one", 0.2, math.nan), ("a", "two", 0.1, 0.4), ("b", "two", 0.1, 0.4)]
    frame = points(*lines, ("b", "three", 0.1, math.nan))
    draw_curves(frame, tmp_path / "f", title="T", axis="share", metrics={"a": "acc", "b": "acc"})
    assert {"one: failed", "three: failed", "share of heads (%)", "acc (%)", "10", "20"} <= set(texts(drawn[0]))
    looks = {(bars.get_label(), bars.lines[0].get_color()) for axes in drawn[0].axes for bars in axes.containers}
    assert len({colour for label, colour in looks if label == "two"}) == 1  # although "one" has no line beside it in b
    lost = pd.read_csv(tmp_path / "f.csv").set_index(["task", "arm", "x"]).loc[("a", "one", 0.2)]
    assert (lost["status"], lost["note"]) == ("failed", "seed 1 failed: out of memory")
    draw_pareto(frame, tmp_path / "g", title="T")
    wanted = "Not drawn: one on m (no score on b); three on m (no score on a, b); the CSV says why."
    assert any(wanted in text for text in texts(drawn[1]))
    means = pd.read_csv(tmp_path / "g.csv").set_index("arm")
    assert list(means.index) == ["one", "two", "three"]
    assert means["status"].tolist() == ["failed", "ok", "failed"]
    assert means["note"]["one"] == "a: seed 1 failed: out of memory; b: no run"
    assert means["note"]["three"] == "b: seed 1 failed: out of memory; a: no run"
    assert means["note"].isna()["two"]
    assert means["value"].notna().tolist() == [False, True, False]
    draw_pareto(frame[frame["arm"] == "three"], tmp_path / "h", title="T")
    assert any(text.startswith("No score to draw. Not drawn: three on m") for text in texts(drawn[2]))


def test_a_long_legend_does_not_shrink_panels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("lofit.report.figures.save_figure", lambda figure, stem: drawn.append(figure) or [])
    for n in (4, 40):
        lines = [("a", f"method {number}", 0.1 * (number + 1), 0.5) for number in range(n)]
        draw_pareto(points(*lines), tmp_path / str(n), title="T")
        drawn[-1].draw_without_rendering()
    few, many = (figure.axes[0].get_position().height * figure.get_figheight() for figure in drawn)
    assert many > 0.8 * few


AS_THEY_ARE = ("from $5 \\bad{ to $6", "_first_", "50% of a^b_c", r"\$x\$ & #1 {~}", "a $ b", "$$")
"""Names that matplotlib would read as formulas, drop from the legend, or fail on."""


def test_the_pareto_front_has_what_no_cheaper_arm_reaches() -> None:
    costs = {"base": 0, "free": math.nan, "poor": 1, "first": 2, "same": 2, "worse": 3, "level": 4, "best": 8}
    scores = [0.3, 0.2, 0.3, 0.5, 0.4, 0.4, 0.5, 0.6]
    means = pd.DataFrame({"arm": list(costs), "cost": list(costs.values()), "value": scores}).sample(
        frac=1, random_state=0
    )
    assert list(pareto_front(means, "cost")["arm"]) == ["first", "best"]
    paid = means[means["cost"] > 0]
    assert list(pareto_front(paid, "cost")["arm"]) == ["poor", "first", "best"]


def test_names_are_drawn_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []

    def keep(figure: Figure, stem: Path) -> list[Path]:
        drawn.append(figure)
        return save_figure(figure, stem)  # a formula with a mistake in it fails here

    monkeypatch.setattr("lofit.report.figures.save_figure", keep)
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)  # as a user's matplotlibrc may say
    title = "Cost $\\bad{$ of _it_ in % & ^"
    lines = [(AS_THEY_ARE[i % 2], arm, 0.1 * i, 0.5) for i, arm in enumerate(AS_THEY_ARE)]
    frame = points(*lines, *((AS_THEY_ARE[1 - i % 2], arm, 0.1 * i, 0.5) for i, arm in enumerate(AS_THEY_ARE)))
    frame["model"] = "m $1 $2 \\bad{"
    draw_curves(frame, tmp_path / "a", title=title, axis="n_train", metrics=dict.fromkeys(AS_THEY_ARE, "$a_b$"))
    draw_pareto(frame, tmp_path / "b", title=title)
    layers = frame.assign(layer=0, share=0.1, n_rankings=2, n_folds=1)
    draw_layers(layers, tmp_path / "c", title=title)
    for figure in drawn:
        shown = [(text.get_text(), text.get_parse_math(), text.get_usetex()) for text in figure.findobj(Text)]
        assert {as_it_is for as_it_is, _, _ in shown} >= {title}
        assert not any(math or tex for _, math, tex in shown)
    in_legends = [{text.get_text() for text in legend.get_texts()} for figure in drawn for legend in figure.legends]
    assert in_legends == [{*AS_THEY_ARE}, {*AS_THEY_ARE}]
    titles = {axes.get_title() for axes in drawn[0].axes}
    assert titles == {f"{task}, m $1 $2 \\bad{{" for task in AS_THEY_ARE[:2]}
    assert {f"m $1 $2 \\bad{{, {arm}" for arm in AS_THEY_ARE} <= {axes.get_title() for axes in drawn[2].axes}
    assert {label.get_text() for axes in drawn[2].axes[:6] for label in axes.get_yticklabels()} == {*AS_THEY_ARE[:2]}


def test_points_of_failed_runs_keep_their_reason() -> None:
    runs = [(plain("clutrr", 1.0), [1.0, 1.0]), (plain("clutrr", None, "dora"), [])]
    rows = frames.results(*(run for run, _ in runs)).assign(variant=["one", "two"], x=0.1)
    found = experiments.points(rows, frames.HEADLINE, scored(*runs)).set_index("arm")
    assert found["status"].tolist() == ["ok", "failed"]
    assert found["note"].tolist() == ["", "seed 0 failed: out of memory"]


def test_a_task_without_any_ranking_stays_in_the_figure_of_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, layers = {"siqa": None, "svamp": None}, {"layers": {"arms": {"LoFiT": {"method": "lofit", "heads": HEADS}}}}
    made = RunTable(parse_config(tiny_config(tmp_path, METHODS, tasks=tasks, seeds=[1, 2], experiments=layers)))
    rng = np.random.default_rng(0)

    def write(*failed: tuple[str, int]) -> pd.DataFrame:
        for node in made.localize.values():
            lost = (node.data.task, node.data.seed) in failed
            with atomic_path(made.folder(node) / "heads.parquet") as part:
                rank_heads(np.zeros((0, 1)) if lost else rng.random((3, 4))).to_parquet(part)
            write_json(made.folder(node) / "localize.json", {"reason": "out of memory" if lost else None})
        return layer_counts(made, "layers").set_index(["task", "layer"])

    counts = write(("siqa", 1), ("siqa", 2), ("svamp", 2))
    assert counts.loc["siqa", "share"].isna().all()
    assert counts.loc["svamp", "share"].sum() == pytest.approx(1)
    assert counts["n_rankings"].tolist() == [0, 0, 0, 1, 1, 1]
    assert set(counts.loc["svamp", "note"]) == {"seed 2 fold 0 failed: out of memory"}
    both = "seed 1 fold 0 failed: out of memory; seed 2 fold 0 failed: out of memory"
    assert set(counts.loc["siqa", "note"]) == {both}
    drawn: list[Figure] = []
    monkeypatch.setattr("lofit.report.figures.save_figure", lambda figure, stem: drawn.append(figure) or [])
    write_outputs(made, "layers")
    assert {"siqa", "svamp", "no ranking"} <= set(texts(drawn[0]))
    caption = "Mean over n = 1 ranking per task (1 seed, 1 fold). Some rankings failed: the CSV says which and why."
    assert caption in texts(drawn[0])
    write(("siqa", 1), ("siqa", 2), ("svamp", 1), ("svamp", 2))
    write_outputs(made, "layers")
    assert texts(drawn[1]).count("no ranking") == 2
    assert "Some rankings failed: the CSV says which and why." in texts(drawn[1])


def test_layers_of_many_tasks_fit(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        [
            {"model": "m", "task": f"task{t}", "arm": "LoFiT", "layer": layer, "share": 1 / 32}
            for t in range(7)
            for layer in range(32)
        ]
    ).assign(n_rankings=2, n_seeds=2, n_folds=1, note="")
    assert [path.suffix for path in draw_layers(frame, tmp_path / "layers", title="T")] == [".pdf", ".png", ".csv"]


def test_the_packages_experiments_are_valid_and_run_on_the_default_model() -> None:
    config = parse_config(
        {
            "models": ["smollm2-135m"],
            "tasks": {"listops": None, "siqa": None},
            "methods": {"base": None},
            "experiments": dict.fromkeys(builtin_names()),
            "seeds": [42, 43],
            "lr_grid": None,
        }
    )
    table = RunTable(config)
    assert {*table.experiments, *table.planted} == set(builtin_names())
    assert all(table.experiments.values()) and all(table.planted.values())
    runs = [{arm.fit.id for arm in arms} for arms in table.experiments.values()]
    assert len(set().union(*runs)) < sum(map(len, runs)), "shared runs exist once"


def test_an_experiment_may_be_like_another_under_a_name_of_its_own(tmp_path: Path) -> None:
    given = {"few": {"like": "data_efficiency", "tasks": ["listops"], "n_train": [4, 8]}}
    config = parse_config(tiny_config(tmp_path, METHODS, experiments=given))
    origin = parse_config(tiny_config(tmp_path, METHODS, experiments={"data_efficiency": None}))
    spec = config.experiment("few")
    assert spec.arms == origin.experiment("data_efficiency").arms
    assert (spec.kind, spec.n_train, spec.tasks) == ("curve", [4, 8], ["listops"])
    assert {arm.x for arm in RunTable(config).experiments["few"]} == {4, 8}


def test_arms_are_added_and_have_the_hyperparameters_of_their_method(tmp_path: Path) -> None:
    """What an arm says itself counts more than what its method says."""
    methods = METHODS | {"lora": {"params": {"lr": 0.02, "epochs": 1}}}
    more = {"r 2": {"method": "lora", "params": {"rank": 2}}, "slow": {"method": "lora", "params": {"lr": 0.001}}}
    config = parse_config(tiny_config(tmp_path, methods, experiments={"peft": {"arms+": more}}))
    assert list(config.experiment("peft").arms or ()) == ["base", "LoFiT (10%)", "LoRA", "RED", "LoReFT", *more]
    assert config.experiment("peft").primary == "LoFiT (10%)"
    table = RunTable(config)
    runs = {arm.label: arm.fit for arm in table.experiments["peft"]}
    assert runs["LoRA"].id in table.comparison, "the same run as in the main comparison"
    rates = {label: runs[label].params.model_dump()["lr"] for label in ("LoRA", "r 2", "slow")}
    assert rates == {"LoRA": 0.02, "r 2": 0.02, "slow": 0.001}
    assert runs["slow"].params.model_dump()["epochs"] == 1
    assert parse_config(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


BROKEN = {
    "arms that are added": (
        {"peft": {"arms+": {"x": {"method": "lora", "parms": {}}}}},
        "experiments.peft.arms+.x.parms: unknown key 'parms'; did you mean 'params'?",
    ),
    "like an unknown one": ({"x": {"like": "pefft"}}, "experiments.x.like: unknown experiment 'pefft'; did you"),
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
    "elsewhere": ({"ood": None}, "by naming them under `retention:`"),
    "elsewhere_made": ({"overlap": {"kind": "table", "arms": {"x": LORA}}}, "always made where there are two rankings"),
    "reserved_protocol": ({"main-open": {"kind": "table", "arms": {"x": LORA}}}, "outputs of that name exist"),
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
