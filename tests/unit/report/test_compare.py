from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lofit.config import parse_config
from lofit.experiments import UNSCORED, ArmConfig, ExperimentConfig, builtin_names, resolved
from lofit.plan.table import RunTable
from lofit.report import compare
from lofit.report.compare import absences, by_place, markdown, pairs
from tests.unit.report.frames import plain, results, row, scored

N = 40


def draws(share: float, seed: int) -> list[float]:
    return (np.random.default_rng(seed).random(N) < share).astype(float).tolist()


def made(*runs: tuple[str, float | None, list[float]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows and items of one run per arm; of a run with x, along an axis."""
    lines = [plain("clutrr", float(np.mean(values)), method=name) for name, _, values in runs]
    for number, line in enumerate(lines):
        line["run_id"] = f"run{number}"
    rows = results(*lines).assign(variant=[name for name, _, _ in runs], x=[x for _, x, _ in runs])
    return rows, scored(*zip(lines, (values for _, _, values in runs), strict=True))


def test_differences_are_paired_and_their_tests_corrected() -> None:
    one, two, three = draws(0.9, 1), draws(0.5, 2), draws(0.45, 3)
    rows, items = made(("A", None, one), ("B", None, two), ("C", None, three))
    found = pairs(rows, items)
    assert found[["arm", "against"]].to_numpy().tolist() == [["A", "B"], ["A", "C"], ["B", "C"]]
    for line, (left, right) in zip(found.to_dict("records"), ((one, two), (one, three), (two, three)), strict=True):
        gaps = np.subtract(left, right)
        half = stats.t.ppf(0.975, N - 1) * gaps.std(ddof=1) / np.sqrt(N)
        assert line["difference"] == pytest.approx(100 * gaps.mean())
        assert (line["low"], line["high"]) == pytest.approx((100 * (gaps.mean() - half), 100 * (gaps.mean() + half)))
        assert line["p"] == pytest.approx(stats.ttest_rel(left, right).pvalue)
        assert line["items"] == N
    ordered = found.sort_values("p")["p"].to_numpy()
    expected = np.minimum(1, np.maximum.accumulate(ordered * [3, 2, 1]))
    assert found.sort_values("p")["p_holm"].to_numpy() == pytest.approx(expected)


def test_with_one_arm_alone_there_are_fewer_tests_to_correct_for() -> None:
    rows, items = made(("A", None, draws(0.9, 1)), ("B", None, draws(0.5, 2)), ("C", None, draws(0.45, 3)))
    found = pairs(rows, items, against="B")
    assert found[["arm", "against"]].to_numpy().tolist() == [["A", "B"], ["C", "B"]]
    whole = pairs(rows, items).set_index(["arm", "against"])["p_holm"]
    assert found.set_index("arm")["p_holm"]["A"] <= whole["A", "B"]


def test_arms_of_a_curve_meet_at_the_same_place_and_a_single_arm_meets_itself() -> None:
    rows, items = made(
        ("A", 25, draws(0.6, 1)), ("B", 25, draws(0.5, 2)), ("A", 50, draws(0.7, 3)), ("B", 50, draws(0.4, 4))
    )
    found = pairs(by_place(rows), items)
    assert found[["x", "arm", "against"]].to_numpy().tolist() == [[25, "A", "B"], [50, "A", "B"]]
    assert [line.split("|")[4].strip() for line in markdown(found).splitlines()[2:4]] == ["25", "50"]
    rows, items = made(("A", 0.1, draws(0.6, 1)), ("A", 0.2, draws(0.5, 2)))
    [line] = pairs(by_place(rows), items).to_dict("records")
    assert (line["arm"], line["against"]) == ("0.1", "0.2")


def test_arms_that_are_alike() -> None:
    rows, items = made(("A", None, draws(0.6, 1)), ("B", None, draws(0.6, 1)))
    [line] = pairs(rows, items).to_dict("records")
    assert (line["difference"], line["p"]) == (0, 1)
    assert line["low"] < 0 < line["high"], "nothing differs here, which is not to say that nothing ever would"
    assert "| +0.0 [" in markdown(pairs(rows, items))


def test_folds_weigh_equally_and_a_seed_without_one_of_them_does_not_count() -> None:
    few, many = [1.0] * 4, [0.0] * 36
    lines, values = [], []
    for arm, scores in (("A", {0: few, 1: many}), ("B", {0: [0.0] * 4, 1: many})):
        for seed in (0, 1):
            for fold, found in scores.items():
                lost = (arm, seed, fold) == ("A", 1, 1)
                lines.append(
                    row("truthfulqa", None if lost else float(np.mean(found)), seed=seed, fold=fold, eval_fold=fold)
                )
                lines[-1]["run_id"] += arm
                values.append((lines[-1], [] if lost else found))
    rows = results(*lines).assign(variant=["A"] * 4 + ["B"] * 4, x=np.nan)
    absent = absences(rows)
    assert absent == ["tiny, truthfulqa, A: 1 of 2 seeds (seed 1 fold 1 failed: out of memory)"]
    [line] = pairs(rows, scored(*values)).to_dict("records")
    assert line["difference"] == pytest.approx(50), "the mean of 100 and 0, not of 40 items"
    assert line["items"] == 40
    assert markdown(pairs(rows, scored(*values)), absent).endswith("\n\n- " + absent[0])


def test_a_failed_arm_is_named_not_compared() -> None:
    rows, items = made(("A", None, draws(0.6, 1)), ("B", None, draws(0.5, 2)))
    failed = results(plain("clutrr", None)).assign(variant="C", x=np.nan)
    rows = pd.concat([rows, failed])
    assert absences(rows) == ["tiny, clutrr, C: seed 0 failed: out of memory"]
    assert pairs(rows, items)[["arm", "against"]].to_numpy().tolist() == [["A", "B"]]


def test_the_packages_primary_arm_holds_while_it_is_one_of_the_arms() -> None:
    for name in builtin_names():
        spec = resolved(name, None)
        assert spec.kind in UNSCORED or spec.kind == "variance" or name == "head_fraction" or spec.primary in spec.arms
    arms = {"mine": ArmConfig(method="lora"), "LoFiT (10%)": ArmConfig(method="lofit")}
    assert resolved("pareto", ExperimentConfig(arms=arms)).primary == "LoFiT (10%)"
    arms.pop("LoFiT (10%)")
    assert resolved("pareto", ExperimentConfig(arms=arms)).primary is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [("A", "B"), ("C", "B")]),
        ({"every_pair": True}, [("A", "B"), ("A", "C"), ("B", "C")]),
        ({"against": "C"}, [("A", "C"), ("B", "C")]),
    ],
)
def test_without_a_word_arms_are_compared_with_the_primary_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    rows, items = made(("A", None, draws(0.9, 1)), ("B", None, draws(0.5, 2)), ("C", None, draws(0.45, 3)))
    items.to_parquet(tmp_path / "items.parquet")
    given = {"mine": {"kind": "table", "primary": "B", "arms": {arm: {"method": "lora"} for arm in "ABC"}}}
    config = {"models": ["smollm2-135m"], "tasks": {"clutrr": None}, "methods": {"lora": None}, "experiments": given}
    table = RunTable(parse_config(config))
    monkeypatch.setattr(compare, "arm_rows", lambda *_: rows)
    monkeypatch.setattr(compare, "items_path", lambda *_: tmp_path / "items.parquet")
    found, _ = compare.compare(table, "mine", **options)
    assert list(zip(found["arm"], found["against"], strict=True)) == expected
