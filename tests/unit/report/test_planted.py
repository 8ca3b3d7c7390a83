"""The experiment on planted heads, from the configuration to its tables, and what a configuration may not ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lofit.config import parse_config
from lofit.errors import ConfigError, FitError
from lofit.files import read_json, read_jsonl
from lofit.localizers import localizer_names
from lofit.nodes.export import fitted_report
from lofit.plan.estimate import costs
from lofit.plan.kinds import EFFECTS, FETCH, FIT, KINDS, PLANT, PREPARE, counts
from lofit.plan.table import RunTable
from lofit.rankings.ranking import rank_heads, read_ranking
from lofit.rankings.recall import normalised_area, recall_curve
from lofit.report.planted import SETTING, averaged, curves, over_random
from tests.fitted import run, run_nodes, tiny_config

BRIEF = {"lr": 0.01, "epochs": 1}
PLANTED: dict[str, Any] = {
    "damages": [{"kind": "offset", "strength": 2.0}],
    "k": [2],
    "n_train": [24],
    "n_validation": 12,
    "tokens": 4,
    "targets": ["dense", "sparse"],
    "draws": 2,
    "fitted": ["planted", "lofit bottom"],
}


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    spec = {"like": "planted", "planted": PLANTED | changes}
    shared = [{"set": BRIEF}]
    return tiny_config(folder, {"base": None}, experiments={"found": spec}, shared_params=shared)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RunTable:
    made = RunTable(parse_config(config(tmp_path_factory.mktemp("planted"))))
    run_nodes(made, FETCH, PREPARE)
    run(made)
    return made


def test_every_localizer_is_run_on_every_damaged_model(table: RunTable) -> None:
    arms = {name for name in localizer_names() if name != "all"} | {"lofit, lambda 0", "lofit bottom"}
    assert {run.label for run in table.planted["found"]} == arms
    assert len(table.plants) == 2 * 2
    assert len(table.effects) == 1
    assert len(table.localize) == 4 * (len(arms) - 1)  # the bottom is that of a ranking
    assert sum(fit.data in table.plants.values() for fit in table.fits.values()) == 4 * 2
    assert counts(table)["evaluate"] == 1  # the base model alone
    assert not table.head_rankings
    found, unknown = costs(table)
    assert {"effects", "plant"} <= set(found)
    assert unknown == ["tiny"]


def test_draws_share_rows_and_damage_and_differ_in_heads(table: RunTable) -> None:
    heads: dict[str, set[tuple[tuple[int, int], ...]]] = {}
    for plant in table.plants.values():
        report = PLANT.read_report(table, plant)
        assert report["status"] == "ok", report
        effects = pd.read_parquet(table.folder(plant.data) / "effects.parquet").set_index(["layer", "head"])
        for head, effect in zip(report["heads"], report["effects"], strict=True):
            alone = effects.loc[tuple(head)]
            assert alone["effect"] == effect >= 3 * alone["error"]
        heads.setdefault(plant.subject, set()).add(tuple(map(tuple, report["heads"])))
        rows = read_jsonl(table.folder(plant) / "train.jsonl")
        given = read_jsonl(table.folder(plant.data) / "train.jsonl")
        assert [row["target"] for row in rows] == [row["target"] for row in given]
        assert all(row["contrast"]["right"] == [row["target"]] for row in rows)
        assert any(row["contrast"]["wrong"] != row["contrast"]["right"] for row in rows)
    assert any(len(found) > 1 for found in heads.values())


def test_the_table_has_recall_by_hand(table: RunTable) -> None:
    shown = pd.read_csv(table.config.results / "tables" / "found.csv")
    assert (shown["draws"] == 2).all()
    assert shown["chance"].unique() == pytest.approx([2 / 12])
    for arm in ("lofit", "oracle", "random"):
        for targets in ("dense", "sparse"):
            values, areas = [], []
            for run_ in table.planted["found"]:
                plant = run_.plant
                if (run_.label, plant.targets) != (arm, targets):
                    continue
                planted = {tuple(head) for head in PLANT.read_report(table, plant)["heads"]}
                order = read_ranking(table.folder(run_.ranking) / "heads.parquet")
                heads = list(zip(order["layer"], order["head"], strict=True))
                values.append(len(planted & set(heads[:2])) / 2)
                areas.append(np.mean([len(planted & set(heads[:n])) / 2 for n in range(1, 13)]))
            row = shown[(shown["arm"] == arm) & (shown["targets"] == targets)].iloc[0]
            assert row["recall"] == pytest.approx(np.mean(values))
            half = stats.t.ppf(0.975, 1) * np.std(values, ddof=1) / np.sqrt(2)
            assert row["recall_draws"] == 2
            if half > 0:
                assert row["recall_high"] - row["recall"] == pytest.approx(half)
            else:  # two equal draws say nothing about others
                assert np.isnan(row["recall_high"])
            if arm == "oracle":
                assert row["area"] == pytest.approx(1)


def test_last_heads_are_no_ranking_of_their_own(table: RunTable) -> None:
    """Their recall would be that of the arm whose ranking they are the end of; whether they are fitted or not."""
    folder = table.config.results.parent
    fitted = RunTable(parse_config(config(folder, fitted=["planted"])))
    for made in (table, fitted):
        assert "lofit bottom" in {run.label for run in made.planted["found"]}
        assert "lofit bottom" not in set(curves(made, "found")["arm"])


def test_a_fit_to_a_damaged_model_is_of_no_other_use(table: RunTable) -> None:
    fit = next(run.fit for run in table.planted["found"] if run.fit)
    with pytest.raises(FitError, match="fitted to a damaged model"):
        fitted_report(table, fit)


def test_losses_are_those_of_the_fits(table: RunTable) -> None:
    shown = pd.read_csv(table.config.results / "tables" / "found_loss.csv")
    assert set(shown["arm"]) == {"planted", "lofit bottom"}
    runs = [run_ for run_ in table.planted["found"] if run_.label == "planted"]
    dense = [run_ for run_ in runs if run_.plant.targets == "dense"]
    reports = [FIT.read_report(table, run_.fit) for run_ in dense if run_.fit]
    row = shown[(shown["arm"] == "planted") & (shown["targets"] == "dense")].iloc[0]
    assert row["before"] == pytest.approx(np.mean([report["validation_loss"][0] for report in reports]))
    assert row["after"] == pytest.approx(np.mean([report["validation_loss"][-1] for report in reports]))
    planted = [tuple(map(tuple, PLANT.read_report(table, run_.plant)["heads"])) for run_ in dense]
    assert [tuple(map(tuple, report["heads"])) for report in reports] == planted
    for run_ in runs:
        if run_.plant.targets == "sparse" and run_.fit:
            before = FIT.read_report(table, run_.fit)["validation_loss"][0]
            assert before == pytest.approx(
                PLANT.read_report(table, run_.plant)["loss"]["damaged"], abs=0.01
            )  # initial values


def test_what_selected_heads_undo_is_compared_with_random_ones_draw_by_draw() -> None:
    keys = {name: "x" for name in SETTING}
    lines = [(0, "random", 0.5), (0, "lofit", 0.7), (1, "random", 0.2), (1, "lofit", 0.6), (2, "lofit", 0.9)]
    frame = over_random(pd.DataFrame([keys | {"draw": draw, "arm": arm, "undone": v} for draw, arm, v in lines]))
    assert frame["over_random"].tolist() == pytest.approx([np.nan, 0.2, np.nan, 0.4, np.nan], nan_ok=True)


def test_recall_and_area_by_hand() -> None:
    ranking = rank_heads(np.array([[5.0, 4.0], [3.0, 2.0]]))
    curve = recall_curve(ranking, [(0, 1), (1, 1)])
    assert curve.tolist() == [0, 0.5, 0.5, 1]
    oracle = np.array([0.5, 1, 1, 1])
    assert normalised_area(curve, oracle) == pytest.approx((0.5 - 0.625) / (0.875 - 0.625))
    assert normalised_area(oracle, oracle) == 1
    assert np.isnan(normalised_area(oracle, np.arange(1, 5) / 4))


def test_failed_runs_are_no_draws() -> None:
    frame = pd.DataFrame({"arm": "a", "recall": [0.5, 0.25, np.nan], "note": ["", "", "draw 2: no"]})
    [row] = averaged(frame, ["arm"], ["recall"]).to_dict("records")
    assert (row["draws"], row["recall"], row["note"]) == (2, 0.375, "draw 2: no")
    assert (row["recall_low"], row["recall_high"]) == (0, 1)  # of 2 draws, -1.2 to 2.0


def test_too_few_visible_heads_fail_the_runs_alone(tmp_path: Path) -> None:
    made = RunTable(
        parse_config(
            config(tmp_path, k=[12], targets=["dense"], draws=1, damages=[{"kind": "scale", "strength": 1.001}])
        )
    )
    run_nodes(made, FETCH, PREPARE)
    run(made)
    [plant] = made.plants.values()
    report = PLANT.read_report(made, plant)
    assert report["status"] == "failed"
    assert "heads is visible, 12 are to be planted" in report["reason"]
    text = (made.config.results / "tables" / "found.md").read_text()
    assert "12 are to be planted" in text
    for kind in (EFFECTS, PLANT):  # a killed one has the same files
        for node in kind.nodes(made).values():
            assert all(path.exists() for path in kind.outputs(made, node))
            assert kind in KINDS
            assert read_json(made.folder(node) / "run.json") == node.identity


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        ({"like": "planted", "planted": PLANTED | {"k": [13]}}, "planted.k: 13 is more than the 12 heads"),
        ({"like": "planted", "planted": PLANTED | {"fitted": ["nobody"]}}, "planted.fitted: unknown arm 'nobody'"),
        (
            {"like": "planted", "planted": PLANTED | {"damages": [{"kind": "scale", "strength": 1.0}]}},
            "a factor of 1 damages nothing",
        ),
        ({"kind": "planted"}, "planted: says how heads are damaged"),
        (
            {"kind": "table", "arms": {"a": {"method": "base"}}, "planted": PLANTED},
            "only an experiment of kind planted",
        ),
        (
            {"like": "planted", "planted": PLANTED | {"fitted": None}, "arms": {"a": {"method": "lora"}}},
            "does not edit a given number of selected heads",
        ),
        (
            {"kind": "table", "arms": {"a": {"method": "lofit", "heads": {"k": [2], "localizer": "oracle"}}}},
            "'oracle' is for experiments of kind planted alone",
        ),
    ],
)
def test_what_a_configuration_may_not_ask(tmp_path: Path, experiment: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(tiny_config(tmp_path, {"base": None}, experiments={"found": experiment}))
