"""What a score is made of: scores by kind of test item, what counts, what is written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lofit.report.strata import strata_table, write_strata
from tests.unit.report.frames import plain, results, scored

KINDS = ["copied"] * 4 + ["told"] * 5 + [None]
Runs = list[tuple[dict[str, Any], list[float]]]


def frame_of(runs: Runs, kinds: list[str | None] = KINDS) -> pd.DataFrame:
    items = scored(*runs)
    items["stratum"] = [kind for run, values in runs for kind in kinds[: len(values)]]
    return strata_table(results(*(run for run, _ in runs)), items)


def run(copied: list[float], told: list[float], task: str = "clutrr", **changes: Any) -> Any:
    return plain(task, 0.5, **changes), [*copied, *told, 1.0]


def test_scores_by_method_and_stratum() -> None:
    frame = frame_of([run([1, 1, 1, 0], [0] * 5, method="base"), run([1, 1, 0, 0], [1, 1, 1, 1, 0])])
    assert list(zip(frame["method"], frame["stratum"], frame["percent"], frame["items"], strict=True)) == [
        ("base", "copied", 75, 4),
        ("base", "told", 0, 5),
        ("lora", "copied", 50, 4),
        ("lora", "told", 80, 5),
    ]
    assert set(frame["metric"]) == {"exact_match"} and set(frame["seeds"]) == {1}
    assert ((frame["percent_low"] <= frame["percent"]) & (frame["percent"] <= frame["percent_high"])).all()
    assert (frame["percent_low"] < frame["percent_high"]).all(), "no correct answer so far is no proof that none comes"


def test_seeds_are_averaged_and_only_complete_ones_count() -> None:
    runs = [run([1, 1, 1, 1], [0, 0, 0, 1, 1], seed=0), run([0, 0, 1, 1], [0, 0, 0, 1, 1], seed=1)]
    frame = frame_of([*runs, (plain("clutrr", None, seed=2), [])])
    assert list(frame["percent"]) == pytest.approx([75, 40])
    assert list(frame["seeds"]) == [2, 2] and list(frame["items"]) == [4, 5]


def test_folds_have_equal_weights() -> None:
    runs = []
    for fold, values in ((0, [1.0, 1.0, 1.0]), (1, [0.0])):
        runs.append((plain("truthfulqa", 0.5, fold=fold, eval_fold=fold), values))
    frame = frame_of(runs, ["kind"] * 3)
    assert frame[["percent", "items", "clusters"]].values.tolist() == [[50, 4, 4]]


def test_clusters_are_what_is_independent() -> None:
    runs = [run([1, 1, 1, 0], [1, 0, 1, 0, 1])]
    items = scored(*runs).assign(stratum=KINDS, cluster=["a", "a", "b", "b", *"ccccc", "d"])
    frame = strata_table(results(runs[0][0]), items)
    assert list(frame["clusters"]) == [2, 1]
    widths = frame["percent_high"] - frame["percent_low"]
    assert not widths[1] < 100, "one cluster says nothing of others"


def test_tasks_without_strata_have_no_rows(tmp_path: Path) -> None:
    frame = frame_of([run([1] * 4, [1] * 5)], [None] * 10)
    assert frame.empty and list(frame) == list(frame_of([run([1] * 4, [1] * 5)]))
    write_strata(frame, tmp_path / "strata", "What scores are made of")
    assert (tmp_path / "strata.csv").read_text().startswith("model,task,method,stratum,")


def test_what_is_written(tmp_path: Path) -> None:
    frame = frame_of([run([1, 1, 1, 0], [1] * 5)]).assign(percent_low=[50.04, math.nan], percent_high=[99, math.nan])
    write_strata(frame, tmp_path / "strata", "What scores are made of")
    lines = [line for line in (tmp_path / "strata.md").read_text().splitlines() if line.startswith("| tiny")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    start = ["tiny", "clutrr", "lora"]
    assert cells == [
        [*start, "copied", "exact_match", "75.0 [50.0, 99.0]", "4", "4", "1"],
        [*start, "told", "exact_match", "100.0", "5", "5", "1"],
    ]
    assert pd.read_csv(tmp_path / "strata.csv")["percent_low"][0] == 50.04
    assert (tmp_path / "strata.tex").is_file()
