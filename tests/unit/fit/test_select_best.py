"""Searches: which settings are tried, by what the best is chosen, and how the results tell of it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from lofit.cli.app import app
from lofit.config import grid, parse_config
from lofit.errors import ConfigError, LofitError
from lofit.files import read_json, write_json
from lofit.nodes import evaluate as evaluate_node
from lofit.nodes import select_best
from lofit.plan.kinds import FIT, counts
from lofit.plan.nodes import TunedNode
from lofit.plan.table import MAIN, RunTable
from lofit.report.main import comparison
from lofit.report.outputs import outputs
from lofit.report.parts import collect_results
from lofit.report.paths import results_path
from lofit.report.search import search_table
from lofit.spec.base import MethodConfig
from tests.fitted import fitted_table, tiny_config, write_outputs

TRAINING = {"epochs": 1}
MANY_STEPS = {"epochs": 3, "batch_size": 2}  # in which an absurd learning rate diverges
METHODS: dict[str, Any] = {
    "base": None,
    "lofit": {
        "params": TRAINING,
        "heads": {"params": TRAINING | {"lr": 0.05}},
        "search": {"k": [2, 4], "params": {"lr": [0.01, 0.3]}, "localizer": {"l1": [0.0, 0.1]}},
    },
    "lora": {"params": MANY_STEPS, "search": {"params": {"lr": [1e-4, 1e-2, 1e-1, 1e30], "rank": [1, 2]}}},
    "full": {"params": TRAINING | {"lr": 0.01}},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RunTable:
    made = fitted_table(tiny_config(tmp_path_factory.mktemp("search"), METHODS))
    for node in made.evaluations.values():
        evaluate_node.run(made, node)
    collect_results(made, MAIN)
    return made


def tuned(table: RunTable, method: str) -> TunedNode:
    return next(node for node in table.tuned.values() if node.method == method)


def test_the_grid_is_whole_or_drawn_from() -> None:
    entry = MethodConfig.model_validate(METHODS["lofit"])
    assert entry.search
    whole = grid.settings(entry, entry.search, None)
    assert len(whole) == grid.size(entry.search) == 8
    for point, setting in whole:
        assert setting.search is None
        assert setting.heads
        assert setting.heads.k == [point["k"]]
        assert setting.heads.params == {"epochs": 1, "lr": 0.05, "l1": point["localizer.l1"]}
        assert setting.params == {"epochs": 1, "lr": point["lr"]}
    drawn = grid.settings(entry, entry.search, 5)
    assert drawn == grid.settings(entry, entry.search, 5)
    assert len({str(point) for point, _ in drawn}) == 5
    places = [whole.index(setting) for setting in drawn]
    assert places == sorted(places)


def test_only_the_chosen_is_scored_and_candidates_are_shared(table: RunTable) -> None:
    assert {name: len(tuned(table, name).candidates) for name in ("lofit", "lora")} == dict.fromkeys(
        ("lofit", "lora"), 8
    )
    assert len(table.evaluations) == 4
    assert len(table.localize) == 2  # one per l1: k and lr of step V do not touch the ranking
    assert counts(table) | {"fetch": 0} == {
        "fetch": 0, "prepare": 1, "localize": 2, "fit": 17, "select_best": 2, "evaluate": 4,
    }  # fmt: skip
    again = parse_config(tiny_config(table.config.results.parent, METHODS, search_points=4))
    assert set(RunTable(again).fits) - set(RunTable(again).tuned) < set(table.fits)


def test_the_best_on_validation_is_kept_as_it_was_fitted(table: RunTable) -> None:
    """No setting of these random models has an answer right, so the loss decides."""
    for name in ("lofit", "lora"):
        node = tuned(table, name)
        reports = [read_json(table.folder(candidate) / "fit.json") for candidate in node.candidates]
        losses = [report["validation_loss"][-1] if report["status"] == "ok" else float("inf") for report in reports]
        best = losses.index(min(losses))
        report = read_json(table.folder(node) / "fit.json")
        measured = [at["validation_metric"] for at in reports if at["status"] == "ok"]
        assert {len(values) for values in measured} == {reports[best]["kept_epoch"] + 1}
        assert {values[-1] for values in measured} == {0.0}
        assert report["select_by"] == "metric"
        assert report["chosen"] == node.points[best]
        assert report["validation_loss"] == reports[best]["validation_loss"]
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            chosen, made = (table.folder(at) / "adapter" / file for at in (node, node.candidates[best]))
            assert chosen.read_bytes() == made.read_bytes()
        spent = sum(report.get("seconds", 0) for report in reports)
        if name == "lofit":
            spent += sum(read_json(table.folder(at) / "localize.json")["seconds"] for at in table.localize.values())
        assert report["seconds"] == pytest.approx(spent)


@pytest.fixture
def copied(table: RunTable, tmp_path: Path) -> RunTable:
    """The same results elsewhere, to be changed."""
    shutil.copytree(table.config.results, tmp_path / "results")
    return RunTable(table.config.model_copy(update={"results": tmp_path / "results"}))


def measure(table: RunTable, node: TunedNode, values: dict[int, tuple[float, float]]) -> None:
    """Write metric and loss of some candidates; of the others, the metric is low and the loss high."""
    for at, candidate in enumerate(node.candidates):
        file = table.folder(candidate) / "fit.json"
        report = read_json(file)
        if report["status"] == "ok":
            metric, loss = values.get(at, (0.1, 9.0))
            report["validation_metric"][-1], report["validation_loss"][-1] = metric, loss
            write_json(file, report)


@pytest.mark.parametrize(
    ("select_by", "values", "best"),
    [
        ("metric", {1: (0.5, 3.0), 3: (0.7, 4.0), 5: (0.2, 1.0)}, 3),
        ("metric", {1: (0.7, 3.0), 3: (0.7, 2.0), 5: (0.2, 1.0)}, 3),
        ("metric", {1: (0.7, 3.0), 3: (0.7, 3.0), 5: (0.2, 1.0)}, 1),
        ("loss", {1: (0.5, 3.0), 3: (0.7, 4.0), 5: (0.2, 1.0)}, 5),
    ],
)
def test_the_metric_chooses_and_the_loss_decides_ties(
    select_by: Any, values: dict[int, tuple[float, float]], best: int, copied: RunTable
) -> None:
    made = RunTable(copied.config.model_copy(update={"select_by": select_by}))
    assert made.fitted.keys() == copied.fitted.keys(), "what is chosen by is no part of the fits"
    assert (made.tuned.keys() == copied.tuned.keys()) == (select_by == "metric")
    node = tuned(made, "lofit")
    measure(made, node, values)
    for at in made.tuned.values():
        select_best.run(made, at)
    report = read_json(made.folder(node) / "fit.json")
    assert report["chosen_run"] == node.candidates[best].id
    assert report["select_by"] == select_by
    assert f"by {select_by}; on validation exact_match " in select_best.summary_line(made.folder(node))
    write_outputs(made, "search")
    frame = pd.read_csv(made.config.results / "tables" / "search.csv").set_index("run")
    row = frame.loc[node.candidates[best].id]
    assert (row["chosen"], row["select_by"], row["metric"]) == ("yes", select_by, "exact_match")
    assert (row["validation_metric"], row["validation_loss"]) == values[best]
    text = (made.config.results / "tables" / "search.md").read_text()
    assert f"The {'highest validation metric' if select_by == 'metric' else 'lowest validation loss'}" in text


def test_the_epoch_that_was_kept_is_what_is_compared(copied: RunTable) -> None:
    node = tuned(copied, "lofit")
    measure(copied, node, {1: (0.9, 1.0), 3: (0.6, 1.0)})
    file = copied.folder(node.candidates[1]) / "fit.json"
    report = read_json(file)
    write_json(file, report | {"kept_epoch": 0, "validation_metric": [0.3, 0.9]})
    select_best.run(copied, node)
    assert read_json(copied.folder(node) / "fit.json")["chosen_run"] == node.candidates[3].id


def test_a_fit_without_the_metric_is_not_compared_by_it(copied: RunTable) -> None:
    node = tuned(copied, "lofit")
    file = copied.folder(node.candidates[2]) / "fit.json"
    write_json(file, {name: value for name, value in read_json(file).items() if name != "validation_metric"})
    with pytest.raises(LofitError, match=f"{node.candidates[2].id}: fitted without a validation metric"):
        select_best.run(copied, node)


def test_a_metric_that_nothing_reads_is_not_computed(table: RunTable, tmp_path: Path) -> None:
    by_loss = RunTable(table.config.model_copy(update={"select_by": "loss"}))
    for made, chosen_from in ((table, True), (by_loss, False)):
        for node in made.fitted.values():
            asked = chosen_from and node.method != "full"
            assert made.scores_validation(node) == made.chooses_by_metric(node) == asked
            assert FIT.triggers(made, node)[1] == asked
    lora = {"params": TRAINING, "search": {"params": {"lr": [1e-3, 1e-2]}}}
    quick = fitted_table(tiny_config(tmp_path, {"base": None, "lora": lora}, select_by="loss"))
    assert "validation_metric" not in FIT.read_report(quick, next(iter(quick.fitted.values())))
    write_outputs(quick, "search")
    assert "not computed" in (quick.config.results / "tables" / "search.md").read_text()


def test_results_tell_what_was_tuned(table: RunTable) -> None:
    results = pd.read_parquet(results_path(table, MAIN)).drop_duplicates("run_id").set_index("method")
    assert results["tried"].dropna().to_dict() == {"lofit": 8, "lora": 8, "full": 1}
    assert results["chosen"]["lofit"].startswith("k=")
    assert results["localize_seconds"].isna().all()
    frame = comparison(table, "paper").set_index("method")
    assert frame["tuned"].to_dict() == {
        "base": "no", "lofit": "best of 8, outermost rate", "lora": "best of 8", "full": "no",
    }  # fmt: skip
    write_outputs(table, "main")
    assert "Outermost rate: the lowest or highest that was tried" in (table.drawn / "tables" / "main.md").read_text()


def test_failed_settings_are_named_and_never_chosen(table: RunTable) -> None:
    write_outputs(table, "search")
    frame = pd.read_csv(table.config.results / "tables" / "search.csv")
    assert len(frame) == 16
    assert frame.groupby("method")["chosen"].value_counts().loc[:, "yes"].to_dict() == {"lofit": 1, "lora": 1}
    failed = frame[frame["validation_loss"].isna()]
    assert failed["setting"].tolist() == ["lr=1e+30, rank=1", "lr=1e+30, rank=2"]
    assert (failed["chosen"] == "no").all()
    assert failed["note"].str.contains("lower the learning rate").all()
    assert "| failed" in (table.config.results / "tables" / "search.md").read_text()


def test_a_search_without_a_winner_is_a_failed_run(tmp_path: Path) -> None:
    lora = {"params": MANY_STEPS, "search": {"params": {"lr": [1e30, 2e30]}}}
    made = fitted_table(tiny_config(tmp_path, {"base": None, "lora": lora}))
    for node in made.evaluations.values():
        evaluate_node.run(made, node)
    collect_results(made, MAIN)
    results = pd.read_parquet(results_path(made, MAIN)).set_index("method")
    assert results["status"]["lora"].startswith("failed: none of 2 settings can be chosen; the first: ")
    assert results["status"]["lora"].endswith("lower the learning rate")
    assert comparison(made, "paper").set_index("method")["listops"]["lora"] == "failed"
    assert (search_table(made)["chosen"] == "no").all()


def test_offsets_of_the_chosen_run_are_read_as_tokens(table: RunTable) -> None:
    tiny_config(table.config.results.parent, METHODS)  # another test has written another one
    config = str(table.config.results.parent / "config.yaml")
    shown = CliRunner().invoke(app, ["lens", "--run", tuned(table, "lofit").id, "-k", "2", "--configfile", config])
    assert shown.exit_code == 0, shown.exception
    assert len(re.findall(r"^\| +\d", shown.output, re.MULTILINE)) in (2, 4)


def test_a_choice_is_no_fit(table: RunTable, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no node "):
        table.find(FIT.nodes(table), tuned(table, "lora").id)
    plain = RunTable(parse_config(tiny_config(tmp_path, {"base": None})))
    assert not [output for output in outputs(plain) if output.name == "search"]
