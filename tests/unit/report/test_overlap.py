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
from lofit.rankings.ranking import rank_heads
from lofit.report.overlap import overlap_matrix, overlap_pairs
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
            "localizers": setting(one) != setting(other),
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
    assert (own["jaccard"] == 1).all()
    text = (results / "tables" / "overlap.md").read_text()
    for part in ("lofit / lofit (l1=0.5)", "| siqa / svamp", "| training seeds", "iti_probe"):
        assert part in text
    matrix = pd.read_csv(results / "figures" / "overlap.csv")
    assert set(matrix["k"]) == {4}
    cell = matrix[(matrix["task"] == "siqa") & (matrix["other_task"] == "siqa") & (matrix["localizer"] != "iti_probe")]
    assert (cell["jaccard"] == 1).all()
    flipped = matrix.rename(columns={"task": "other_task", "other_task": "task"})
    keys = ["model", "localizer", "task", "other_task"]
    merged = matrix.merge(flipped, on=keys)
    assert len(merged) == len(matrix)
    assert np.allclose(merged["jaccard_x"], merged["jaccard_y"])
    assert matrix["note"].isna().all()
    across = matrix[(matrix["localizer"] == "iti_probe") & (matrix["task"] != matrix["other_task"])]
    assert (across["pairs"] == 2).all()  # one per seed
    assert (across["rankings"] == 4).all()
    assert imread(results / "figures" / "overlap.png")[..., :3].std() > 0.05
    pairs = overlap_pairs(table)
    picked = pairs[(pairs["kind"] == "tasks") & (pairs["localizer"] == "iti_probe") & (pairs["k"] == 4)]
    picked = picked[(picked["task"] == "siqa") & (picked["other_task"] == "svamp")]
    found = overlap_matrix(pairs).set_index(["localizer", "task", "other_task"])["jaccard"]
    assert found["iti_probe", "siqa", "svamp"] == pytest.approx(picked["jaccard"].mean())


def test_the_heat_map_is_at_the_largest_number_of_heads_that_says_something() -> None:
    """All heads are the same for any two rankings; one that failed does not make them say more."""
    lines = [
        ("a", "b", 3, 0.5, 0.1),
        ("a", "b", 12, 1.0, 1.0),
        ("a", "c", 3, *[np.nan] * 2),
        ("a", "c", 12, *[np.nan] * 2),
    ]
    pairs = pd.DataFrame(lines, columns=["task", "other_task", "k", "jaccard", "expected_jaccard"]).assign(
        model="m", localizer="lofit", other_localizer="lofit", kind="tasks", first="1", second="2", note=""
    )
    matrix = overlap_matrix(pairs).set_index(["task", "other_task"])
    assert set(matrix["k"]) == {3}
    assert matrix["jaccard"]["a", "b"] == 0.5
    assert matrix["pairs"]["a", "c"] == 0
    assert set(overlap_matrix(pairs[pairs["k"] == 12])["k"]) == {12}, "nothing else is there to show"


def fail(table: RunTable, *tasks: str) -> None:
    for node in table.localize.values():
        if node.data.task in tasks:
            with atomic_path(table.folder(node) / "heads.parquet") as part:
                rank_heads(np.zeros((0, 0))).to_parquet(part)
            write_json(table.folder(node) / "localize.json", {"status": "failed", "reason": "out of memory"})


def texts_drawn(table: RunTable, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    drawn: list[Figure] = []
    monkeypatch.setattr("lofit.report.overlap.save_figure", lambda figure, stem: drawn.append(figure) or [])
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
    assert frame.loc[lost, "jaccard"].isna().all()
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
    assert overlap_pairs(table)["jaccard"].isna().all()
    texts = texts_drawn(table, monkeypatch)
    assert "failed" in texts
    assert not any("n = " in text or "nan" in text for text in texts)
