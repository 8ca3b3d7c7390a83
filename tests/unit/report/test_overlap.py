"""Overlap of the rankings of a configuration: which pairs are compared, and what is written of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from lofit.config import parse_config
from lofit.files import atomic_path, write_json
from lofit.plan.ranking_pairs import comparable_pairs, compares_tasks, setting
from lofit.plan.table import RunTable
from lofit.rankings.overlap import COLUMNS, expected_emd
from lofit.rankings.ranking import rank_heads
from lofit.report.overlap import draw_overlap, overlap_matrix, overlap_pairs
from tests.fitted import tiny_config, write_outputs

HEADS = {"k": [2, 4]}
METHODS: dict[str, Any] = {"base": None, "lofit": {"heads": HEADS}, "iti": {"heads": HEADS}}
EXPERIMENTS = {
    "head_fraction": {"k": [2], "arms": {"no sparsity": {"method": "lofit", "heads": {"params": {"l1": 0.5}}}}},
    "data_efficiency": {"tasks": ["siqa"], "n_train": [5], "arms": {"LoFiT": {"method": "lofit", "heads": {"k": [2]}}}},
    "variance": {"tasks": ["siqa"], "arms": {"LoFiT": {"method": "lofit", "heads": {"k": [2]}}}},
}


@pytest.fixture
def table(tmp_path: Path) -> RunTable:
    """Rankings as nodes write them, of random scores; those of lofit are alike for siqa whatever the seed."""
    tasks = {"siqa": None, "svamp": None, "truthfulqa": None}
    made = RunTable(parse_config(tiny_config(tmp_path, METHODS, tasks=tasks, seeds=[1, 2], experiments=EXPERIMENTS)))
    rng = np.random.default_rng(0)
    alike = rng.random((3, 4))
    for node in made.localize.values():
        same = node.data.task == "siqa" and node.localizer == "lofit"
        with atomic_path(made.folder(node) / "heads.parquet") as part:
            rank_heads(alike if same else rng.random((3, 4))).to_parquet(part)
    return made


def test_pairs_differ_in_one_thing(table: RunTable) -> None:
    pairs = list(comparable_pairs(table))
    assert compares_tasks(table)
    for kind, one, other in pairs:
        differ = {
            "tasks": one.data.task != other.data.task,
            "folds": one.data.fold != other.data.fold,
            "subsets": one.data.seed != other.data.seed and one.own_seed == other.own_seed,
            "seeds": one.data.seed != other.data.seed and one.own_seed != other.own_seed,
            "training seeds": one.data.seed == other.data.seed and one.own_seed != other.own_seed,
            "localizers": setting(table, one) != setting(table, other),
        }
        assert differ[kind]
        assert sum(differ.values()) == 1
        assert one.data.options.get("n_train") == other.data.options.get("n_train") or kind == "tasks"
        assert 5 not in (one.data.options["n_train"], other.data.options["n_train"])
    kinds = Counter(kind for kind, _, _ in pairs)
    assert kinds["subsets"] == kinds["training seeds"] == 2
    assert len({frozenset((one.id, other.id)) for _, one, other in pairs}) == len(pairs)


def test_tables_and_heat_map_hold_the_overlap(table: RunTable) -> None:
    write_outputs(table, "overlap")
    results = table.config.results
    frame = pd.read_csv(results / "tables" / "overlap.csv")
    assert len(frame) == 2 * len(list(comparable_pairs(table)))  # two numbers of heads
    own = frame[(frame["kind"] == "seeds") & (frame["task"] == "siqa") & frame["localizer"].str.startswith("lofit")]
    assert (own[["overlap", "jaccard"]] == 1).all(axis=None)
    assert (own["emd"] == 0).all()
    assert {"overlap", "expected_overlap", "expected_jaccard", "spearman", "emd", "expected_emd"} <= set(frame.columns)
    text = (results / "tables" / "overlap.md").read_text()
    for part in ("lofit / lofit (l1=0.5)", "| siqa / svamp", "| training seeds", "iti_probe", "| 1.00 (0.33) "):
        assert part in text
    assert f"| 0.00 ({expected_emd((4, 4, 4), 4):.2f})" in text
    matrix = pd.read_csv(results / "figures" / "overlap.csv")
    assert set(matrix["k"]) == {4}
    cell = matrix[(matrix["task"] == "siqa") & (matrix["other_task"] == "siqa") & (matrix["localizer"] != "iti_probe")]
    assert (cell["overlap"] == 1).all()
    assert (cell["expected_overlap"] == 4 / 12).all()
    assert cell["expected_emd"].tolist() == pytest.approx([expected_emd((4, 4, 4), 4)] * len(cell))
    flipped = matrix.rename(columns={"task": "other_task", "other_task": "task"})
    keys = ["model", "localizer", "task", "other_task"]
    merged = matrix.merge(flipped, on=keys)
    assert len(merged) == len(matrix)
    assert np.allclose(merged[["overlap_x", "emd_x"]], merged[["overlap_y", "emd_y"]])
    assert matrix["note"].isna().all()
    across = matrix[(matrix["localizer"] == "iti_probe") & (matrix["task"] != matrix["other_task"])]
    assert (across["pairs"] == 2).all()  # one per seed
    assert (across["rankings"] == 4).all()
    assert imread(results / "figures" / "overlap.png")[..., :3].std() > 0.05
    pairs = overlap_pairs(table)
    picked = pairs[(pairs["kind"] == "tasks") & (pairs["localizer"] == "iti_probe") & (pairs["k"] == 4)]
    picked = picked[(picked["task"] == "siqa") & (picked["other_task"] == "svamp")]
    found = overlap_matrix(pairs).set_index(["localizer", "task", "other_task"])
    for measure in ("overlap", "emd"):
        assert found[measure]["iti_probe", "siqa", "svamp"] == pytest.approx(picked[measure].mean())


def test_the_diagonal_is_the_same_task_with_another_seed(table: RunTable) -> None:
    pairs = overlap_pairs(table)
    matrix = overlap_matrix(pairs)
    for cell in matrix[matrix["task"] == matrix["other_task"]].to_dict("records"):
        own = pairs[(pairs["task"] == cell["task"]) & (pairs["localizer"] == cell["localizer"]) & (pairs["k"] == 4)]
        own = own[own["kind"] == "seeds"]  # not folds, nor subsets and training seeds of `variance` by themselves
        assert cell["pairs"] == len(own) > 0
        assert cell["overlap"] == pytest.approx(own["overlap"].mean())
        assert cell["emd"] == pytest.approx(own["emd"].mean())


def test_the_heat_map_is_at_the_largest_number_of_heads_that_says_something() -> None:
    """All heads are the same for any two rankings; one that failed does not make them say more."""
    pairs = made_pairs(
        ("a", "b", 3, 0.5, 0.1, 1.0),
        ("a", "b", 12, 1.0, 1.0, 0.0),
        ("a", "c", 3, *[np.nan] * 3),
        ("a", "c", 12, *[np.nan] * 3),
    )
    matrix = overlap_matrix(pairs).set_index(["task", "other_task"])
    assert set(matrix["k"]) == {3}
    assert matrix["overlap"]["a", "b"] == 0.5
    assert matrix["pairs"]["a", "c"] == 0
    assert set(overlap_matrix(pairs[pairs["k"] == 12])["k"]) == {12}, "nothing else is there to show"


def made_pairs(*lines: tuple[Any, ...]) -> pd.DataFrame:
    """Pairs of tasks with k, overlap, its chance and distance; pairs of a task and itself differ in the seed."""
    columns = ["task", "other_task", "k", "overlap", "expected_overlap", "emd"]
    frame = pd.DataFrame(lines, columns=columns).assign(model="m", localizer="lofit", other_localizer="lofit", note="")
    frame = frame.assign(first="1", second="2", jaccard=frame["overlap"], expected_jaccard=0.1, expected_emd=0.7)
    return frame.assign(kind=np.where(frame["task"] == frame["other_task"], "seeds", "tasks"))


def test_both_panels_show_their_numbers_and_the_diagonal_of_one_seed_is_hatched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("lofit.report.figures.save_figure", lambda figure, stem: drawn.append(figure) or [])
    draw_overlap(
        overlap_matrix(made_pairs(("a", "b", 3, 0.25, 0.1, 1.5), ("a", "a", 3, 0.75, 0.1, 0.5))),
        tmp_path / "o",
        title="Overlap",
    )
    for axes, values, random in zip(
        drawn[0].axes, (["0.75", "0.25", "0.25"], ["0.50", "1.50", "1.50"]), ("0.10", "0.70"), strict=True
    ):
        assert sorted(text.get_text() for text in axes.texts) == sorted(values)
        assert axes.get_title().endswith(f"K = 3; random heads {random}")
        hatched = [(patch.get_x(), patch.get_y()) for patch in axes.patches if patch.get_hatch()]
        assert hatched == [(0.5, 0.5)], "b against b: it has one seed"
    assert [axes.get_title().split("\n")[1] for axes in drawn[0].axes] == ["overlap", "earth mover's distance (layers)"]


def fail(table: RunTable, *tasks: str) -> None:
    for node in table.localize.values():
        if node.data.task in tasks:
            with atomic_path(table.folder(node) / "heads.parquet") as part:
                rank_heads(np.zeros((0, 0))).to_parquet(part)
            write_json(table.folder(node) / "localize.json", {"status": "failed", "reason": "out of memory"})


def texts_drawn(table: RunTable, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    drawn: list[Figure] = []
    monkeypatch.setattr("lofit.report.figures.save_figure", lambda figure, stem: drawn.append(figure) or [])
    write_outputs(table, "overlap")
    return [artist.get_text().replace("\n", " ") for artist in drawn[0].findobj(Text)]


def test_rankings_that_failed_are_shown_with_their_reason(table: RunTable, monkeypatch: pytest.MonkeyPatch) -> None:
    write_outputs(table, "overlap")
    whole = pd.read_csv(table.config.results / "figures" / "overlap.csv")
    fail(table, "svamp")
    texts = texts_drawn(table, monkeypatch)
    frame = pd.read_csv(table.config.results / "figures" / "overlap.csv")
    keys = ["model", "localizer", "k", "task", "other_task"]
    assert frame[keys].equals(whole[keys])
    lost = (frame["task"] == "svamp") | (frame["other_task"] == "svamp")
    assert frame.loc[lost, ["overlap", "emd"]].isna().all(axis=None)
    assert (frame.loc[lost, ["pairs", "rankings"]] == 0).all(axis=None)
    assert frame.loc[lost, "note"].str.contains("svamp/fold0/.* failed: out of memory").all()
    assert frame[~lost].drop(columns="note").equals(whole[~lost].drop(columns="note"))
    assert frame.loc[~lost, "note"].isna().all()
    assert {"svamp", "failed"} <= set(texts)
    assert any("Some rankings failed: the CSV says which and why." in text for text in texts)
    lines = (table.config.results / "tables" / "overlap.md").read_text().split("\n")
    assert all("nan" not in line and "| 0 " in line for line in lines if "| siqa / svamp" in line)


def test_a_heat_map_without_any_ranking_says_so(table: RunTable, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(table, "siqa", "svamp", "truthfulqa")
    pairs = overlap_pairs(table)
    assert set(COLUMNS) < set(pairs.columns)
    assert pairs["overlap"].isna().all()
    texts = texts_drawn(table, monkeypatch)
    assert "failed" in texts
    assert not any("n = " in text or "nan" in text for text in texts)
