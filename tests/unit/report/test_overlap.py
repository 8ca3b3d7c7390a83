"""Overlap of the rankings of a configuration: which pairs are compared, and what is written of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from lofit.config import parse_config
from lofit.files import atomic_path
from lofit.localize.pairs import comparable_pairs, compares_tasks, setting
from lofit.localize.ranking import rank_heads
from lofit.report.overlap import overlap_matrix, overlap_pairs, write_overlap
from lofit.runs import RunTable
from tests.fitted import tiny_config

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
        with atomic_path(made.localize_dir(node) / "heads.parquet") as part:
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
    write_overlap(table)
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
    assert imread(results / "figures" / "overlap.png")[..., :3].std() > 0.05
    pairs = overlap_pairs(table)
    picked = pairs[(pairs["kind"] == "tasks") & (pairs["localizer"] == "iti_probe") & (pairs["k"] == 4)]
    picked = picked[(picked["task"] == "siqa") & (picked["other_task"] == "svamp")]
    found = overlap_matrix(pairs).set_index(["localizer", "task", "other_task"])["jaccard"]
    assert found["iti_probe", "siqa", "svamp"] == pytest.approx(picked["jaccard"].mean())


def test_rankings_that_failed_have_no_overlap(table: RunTable) -> None:
    for node in table.localize.values():
        with atomic_path(table.localize_dir(node) / "heads.parquet") as part:
            rank_heads(np.zeros((0, 0))).to_parquet(part)
    assert overlap_pairs(table).empty
