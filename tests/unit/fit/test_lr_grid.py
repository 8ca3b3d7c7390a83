"""The grid of learning rates that every trained method chooses from, and what it costs."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.numpy import load_file

from lofit.config import grid, parse_config
from lofit.errors import FitError
from lofit.nodes import select_best
from lofit.plan.kinds import FIT, SELECT_BEST, counts
from lofit.plan.nodes import TunedNode
from lofit.plan.table import RunTable
from lofit.report.search import search_table
from tests.fitted import fitted_table, run, tiny_config

TRAINING = {"epochs": 1}
METHODS: dict[str, Any] = {
    "base": None,
    "lofit": {"params": TRAINING, "heads": {"k": [3], "params": TRAINING | {"lr": 0.05}}},
    "lora": {"params": TRAINING},
    "full": {"params": TRAINING | {"lr": 0.01}},
    "repe": None,
}
SETTINGS = {"seeds": [1, 2], "lr_grid": [0.5, 1, 4], "select_by": "loss"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RunTable:
    folder = tmp_path_factory.mktemp("grid")
    made = fitted_table(tiny_config(folder, METHODS, transfer={"k": 3, "random_row": True}, **SETTINGS))
    run(made)
    return made


def tuned(table: RunTable, method: str) -> dict[int, TunedNode]:
    """The searches of a method on heads of its own localizer, by seed."""
    found = [node for node in table.tuned.values() if node.method == method]
    return {node.seed: node for node in found if not node.ranking or node.ranking.localizer != "random"}


def test_every_trained_method_has_a_bracket_around_its_published_rate(table: RunTable) -> None:
    """But for one whose configuration gives the learning rate."""
    assert {node.method for node in table.tuned.values()} == {"lofit", "lora"}
    for method, published in (("lofit", 0.01), ("lora", 0.0002)):
        node = tuned(table, method)[1]
        rates = [fit.params.lr for fit in node.candidates]
        assert rates == pytest.approx([published * factor for factor in (0.5, 1, 4)])
        assert node.leader is None
        assert [point["lr"] for point in node.points] == rates
        assert node.at_rate(rates[1]) == node.candidates[1]
    assert grid.beyond([1e-4, 3e-4, 1e-2, 3e-2], last=False)[:3] == [3.33333e-05, 1.11111e-05, 3.7037e-06]
    assert grid.beyond([1e-4, 3e-4, 1e-2, 3e-2], last=True)[:3] == [0.09, 0.27, 0.81]


def test_a_search_is_made_once_and_its_choice_is_taken_over(table: RunTable) -> None:
    """For two methods, three fits of the first seed, and the fits of the configured rate."""
    assert counts(table)["fit"] == 2 * 3 + 2 + 2
    for method in ("lofit", "lora"):
        first, second = (tuned(table, method)[seed] for seed in (1, 2))
        assert second.leader == first
        report, followed = (SELECT_BEST.read_report(table, node) for node in (first, second))
        assert followed["chosen"] == report["chosen"]
        assert followed["search"] == report["search"]
        assert followed["seconds"] > report["seconds"]
    each = RunTable(table.config.model_copy(update={"search_seeds": "each"}))
    assert not any(node.leader for node in tuned(each, "lora").values())
    assert counts(each)["fit"] == 2 * 2 * 3 + 2 + 2


def test_a_choice_that_is_taken_over_is_fitted_as_a_plain_run_is(table: RunTable, tmp_path: Path) -> None:
    node = tuned(table, "lora")[2]
    rate = SELECT_BEST.read_report(table, node)["chosen"]["lr"]
    methods = {"base": None, "lora": {"params": TRAINING | {"lr": rate}}}
    plain = fitted_table(tiny_config(tmp_path, methods, seeds=[2]))
    (fit,) = plain.fitted.values()
    ours, alone = (
        load_file(made.folder(at) / "adapter" / "adapter_model.safetensors")
        for made, at in ((table, node), (plain, fit))
    )
    assert ours.keys() == alone.keys()
    assert all((ours[name] == alone[name]).all() for name in ours)
    losses = [
        made.read_report(at, of)["validation_loss"] for made, at, of in ((SELECT_BEST, table, node), (FIT, plain, fit))
    ]
    assert losses[0] == losses[1]


def test_rates_beyond_the_edge_are_tried_while_the_outermost_is_the_best(table: RunTable) -> None:
    """Higher rates are better for so few steps, so the grid is extended upwards."""
    node = tuned(table, "lora")[1]
    report = SELECT_BEST.read_report(table, node)
    losses = {entry["point"]["lr"]: entry["validation_loss"] for entry in report["search"]}
    rates = [0.0001, 0.0002, 0.0008, 0.0032, 0.0128, 0.0512, 0.2048, 0.8192, 3.2768]
    assert list(losses) == pytest.approx(rates[: len(losses)])
    best = min(losses, key=lambda rate: losses[rate])
    assert best > 0.0008
    assert best == list(losses)[-2 if len(losses) < len(rates) else -1]
    assert report["extended"] == len(losses) - 3 > 1
    assert report["chosen"] == {"lr": best}
    assert report["chosen_run"] == node.at_rate(best).id
    assert report["validation_loss"][-1] == losses[best]
    assert load_file(table.folder(node) / "adapter" / "adapter_model.safetensors")
    assert [path.name for path in table.folder(node).iterdir() if path.is_dir()] == ["adapter", "eval"]
    assert not list(table.folder(node).glob("savepoint*"))
    assert not table.folder(node.at_rate(best)).exists()


@pytest.mark.parametrize(
    ("best", "further", "extended", "chosen"),
    [
        (1, [], 0, None),
        (0, [2.0], 1, None),
        (2, [2.0], 1, None),
        (2, [0.5, 0.7], 2, 0.0032),
        (0, [0.5, 0.4, 0.6], 3, 0.000025),
        (0, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], 6, 1.5625e-06),
        (2, [0.5, None], 2, 0.0032),
    ],
)
def test_the_grid_is_extended_until_the_best_is_within(
    best: int, further: list[float | None], extended: int, chosen: float | None, table: RunTable, tmp_path: Path
) -> None:
    """By reports that are made up: the candidate at the place ``best`` has the lowest loss of all, 1."""
    node = tuned(table, "lora")[1]
    left = list(further)
    with pytest.MonkeyPatch.context() as patch:
        losses = {fit.id: 1.0 + abs(at - best) for at, fit in enumerate(node.candidates)}

        def told(made: RunTable, fit: Any) -> dict[str, Any]:
            return {"status": "ok", "reason": None, "validation_loss": [9.0, losses[fit.id]], "seconds": 1.0}

        def fitted(made: RunTable, fit: Any, folder: Path, adapter: Path, scored: bool) -> dict[str, Any]:
            assert not scored
            (adapter / fit.id.rpartition("/")[2]).touch()
            if (loss := left.pop(0)) is None:
                raise FitError("not finite")
            return {"validation_loss": [9.0, loss], "seconds": 1.0}

        patch.setattr(type(FIT), "read_report", lambda kind, made, fit: told(made, fit))
        patch.setattr(select_best, "fit_into", fitted)
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        seen: dict[str, Any] = {"search": [], "extended": 0}
        report = select_best._choose(table, node, adapter, seen)
    assert not left
    assert (len(seen["search"]), seen["extended"]) == (3 + extended, extended)
    winner = node.at_rate(chosen) if chosen else node.candidates[best]
    assert report["chosen_run"] == winner.id
    name = winner.id.rpartition("/")[2] if chosen else "adapter_model.safetensors"
    assert name in {path.name for path in adapter.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"adapter"}
    assert report["seconds"] == 3 + extended - further.count(None)


def test_heads_of_other_tasks_take_over_the_choice_of_the_task_itself(table: RunTable) -> None:
    by_localizer = Counter(node.ranking.localizer for node in table.transfers.values() if node.ranking)
    assert by_localizer == {"lofit": 2, "random": 2}
    own = tuned(table, "lofit")
    for node in table.transfers.values():
        assert isinstance(node, TunedNode)
        if node.ranking and node.ranking.localizer == "random":
            assert node.leader == own[1]
            assert SELECT_BEST.read_report(table, node)["chosen"] == SELECT_BEST.read_report(table, own[1])["chosen"]
        else:
            assert node == own[node.seed]


def test_tables_tell_budgets_apart(table: RunTable) -> None:
    text = (table.config.results / "tables" / "main.md").read_text()
    tried, beyond = map(int, re.findall(r"\| best of (\d), (\d) beyond the grid", text)[-1])
    assert tried == 3 + beyond > 4
    frame = pd.read_csv(table.config.results / "tables" / "main.csv").set_index("method")
    tried = frame["settings"].dropna().to_dict()
    assert tried == {"lofit (3 heads)": 3, "lora": 3, "full": 1, "repe": tried["repe"]}
    assert tried["repe"] > 4
    assert f"Unequal budgets of tuning: methods chose from 1 to {tried['repe']:.0f} settings." in text
    searched = search_table(table)
    assert searched.groupby("method")["chosen"].value_counts().loc[:, "yes"].to_dict() == {
        "lofit": 1,
        "lora": 1,
        "repe": 2,  # with each seed
    }


def test_published_rates_alone(tmp_path: Path) -> None:
    plain = RunTable(parse_config(tiny_config(tmp_path, METHODS, seeds=[1, 2])))
    assert not plain.tuned
    assert {fit.params.lr for fit in plain.fitted.values() if fit.method == "lora"} == {0.0002}
