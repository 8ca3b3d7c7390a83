from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from scipy import stats

from lofit.errors import ReportError
from lofit.report.style import ink_on
from lofit.report.transfer import RANDOM_HEADS, caption, draw_transfer
from tests.unit.report.frames import HEADLINE, plain, results, row, scored, transfer_matrix

K = {"tiny": 8, "big": 8}


def cell(matrix: pd.DataFrame, head_task: str, task: str, model: str = "tiny") -> dict[Any, Any]:
    found = matrix[(matrix["head_task"] == head_task) & (matrix["task"] == task) & (matrix["model"] == model)]
    assert len(found) == 1
    return found.to_dict("records")[0]


def square() -> list[dict[str, Any]]:
    return [
        row("truthfulqa", 0.4),
        row("truthfulqa", 0.3, head_task="clutrr"),
        row("clutrr", 0.5),
        row("clutrr", 0.6, head_task="truthfulqa"),
    ]


def test_values_are_relative_to_the_diagonal_of_the_column() -> None:
    matrix = transfer_matrix(results(*square(), plain("clutrr", 0.99)), HEADLINE, 8)
    assert list(matrix.columns) == [
        "model", "head_task", "task", "value", "relative", "relative_low", "relative_high", "p", "p_holm", "n_seeds",
        "n_items", "status", "note",
    ]  # fmt: skip
    assert len(matrix) == 4
    assert cell(matrix, "clutrr", "truthfulqa")["relative"] == pytest.approx(0.3 / 0.4)
    assert cell(matrix, "truthfulqa", "clutrr")["relative"] == pytest.approx(0.6 / 0.5)
    assert cell(matrix, "truthfulqa", "clutrr")["value"] == pytest.approx(0.6)
    assert cell(matrix, "clutrr", "clutrr")["relative"] == 1
    assert set(matrix["status"]) == {"ok"}


def test_folds_then_seeds_are_averaged_before_the_ratio() -> None:
    rows = [
        row("truthfulqa", value, head_task=head, seed=seed, fold=fold)
        for head, values in (("truthfulqa", (0.2, 0.4, 0.6, 0.8)), ("clutrr", (0.1, 0.2, 0.3, 0.4)))
        for value, (seed, fold) in zip(values, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True)
    ]
    matrix = transfer_matrix(results(*rows, row("clutrr", 0.5)), HEADLINE, 8)
    moved = cell(matrix, "clutrr", "truthfulqa")
    assert (moved["value"], moved["relative"], moved["n_seeds"]) == (pytest.approx(0.25), pytest.approx(0.5), 2)


def test_the_ratio_is_of_the_same_seeds() -> None:
    rows = [
        row("truthfulqa", 0.4, seed=0),
        row("truthfulqa", 0.8, seed=1),
        row("truthfulqa", 0.4, head_task="clutrr", seed=0),
        row("truthfulqa", None, head_task="clutrr", seed=1),
        row("clutrr", 0.5),
    ]
    moved = cell(transfer_matrix(results(*rows), HEADLINE, 8), "clutrr", "truthfulqa")
    assert (moved["relative"], moved["status"]) == (1.0, "partial")


def test_the_test_is_of_the_same_seeds() -> None:
    """Heads of its own are much better with the seed that other heads lack, which proves nothing about heads."""
    alike, better = [0.0, 1.0] * 20, [1.0] * 40
    runs = [
        (row("truthfulqa", 0.5, seed=0), alike),
        (row("truthfulqa", 1.0, seed=1), better),
        (row("truthfulqa", 0.5, head_task="clutrr", seed=0), alike),
        (row("truthfulqa", None, head_task="clutrr", seed=1), []),
        (row("clutrr", 0.5, seed=0), alike),
    ]
    matrix = transfer_matrix(results(*(run for run, _ in runs)), HEADLINE, 8, scored(*runs))
    assert cell(matrix, "clutrr", "truthfulqa")["p"] == 1


def test_missing_failed_and_partial_cells() -> None:
    rows = [
        row("truthfulqa", 0.4, seed=0),
        row("truthfulqa", None, seed=1),
        row("truthfulqa", None, head_task="clutrr"),
        row("clutrr", 0.5),
    ]
    matrix = transfer_matrix(results(*rows), HEADLINE, 8)
    assert cell(matrix, "truthfulqa", "truthfulqa")["status"] == "partial"
    assert cell(matrix, "truthfulqa", "truthfulqa")["note"] == "1 of 2 seeds (seed 1 failed: out of memory)"
    lost = cell(matrix, "clutrr", "truthfulqa")
    assert (lost["status"], lost["note"]) == ("failed", "seed 0 failed: out of memory")
    assert cell(matrix, "clutrr", "clutrr")["note"] == ""
    absent = cell(matrix, "truthfulqa", "clutrr")
    assert (absent["status"], absent["n_seeds"], absent["note"]) == ("missing", 0, "no run")
    assert math.isnan(absent["value"])
    assert math.isnan(absent["relative"])


@pytest.mark.parametrize("own", [0.0, None])
def test_no_diagonal_no_ratio(own: float | None) -> None:
    matrix = transfer_matrix(
        results(row("clutrr", own), row("clutrr", 0.3, head_task="truthfulqa"), row("truthfulqa", 0.4)), HEADLINE, 8
    )
    moved = cell(matrix, "truthfulqa", "clutrr")
    assert moved["value"] == pytest.approx(0.3)
    assert math.isnan(moved["relative"])
    assert math.isnan(cell(matrix, "clutrr", "clutrr")["relative"])
    assert "n/a" in caption(matrix, K)


def test_only_lofit_heads_of_the_given_number_count() -> None:
    others = [row("clutrr", 0.9, n_heads=16), row("clutrr", 0.8, selector="random", run_id="r")]
    matrix = transfer_matrix(results(*square(), *others), HEADLINE, 8)
    assert cell(matrix, "clutrr", "clutrr")["value"] == pytest.approx(0.5)
    with pytest.raises(ReportError, match=r"with 3 heads chosen by lofit .* there are: 8, 16"):
        transfer_matrix(results(*square(), *others), HEADLINE, 3)
    with pytest.raises(ReportError, match="there are: none"):
        transfer_matrix(results(plain("clutrr", 0.1)), HEADLINE, 3)


def test_own_heads_count_at_the_training_size_of_the_transfer() -> None:
    matrix = transfer_matrix(results(*square(), row("clutrr", 0.9, n_train=1000)), HEADLINE, 8)
    assert cell(matrix, "clutrr", "clutrr")["value"] == pytest.approx(0.5)
    with pytest.raises(ReportError, match="tiny on clutrr use 100, 1000 training examples"):
        transfer_matrix(results(*square(), row("clutrr", 0.9, n_train=1000, head_task="truthfulqa")), HEADLINE, 8)


def test_protocols_are_never_mixed() -> None:
    rows = square()
    rows[3]["protocol"] = "lm-eval"
    with pytest.raises(ReportError, match="protocols lm-eval, paper"):
        transfer_matrix(results(*rows), HEADLINE, 8)


def test_heads_of_an_unknown_task_are_refused() -> None:
    with pytest.raises(ReportError, match="no headline metric is given for task mquake"):
        transfer_matrix(results(*square(), row("clutrr", 0.1, head_task="mquake")), HEADLINE, 8)


def test_drawing_is_deterministic_and_leaves_the_csv(tmp_path: Path) -> None:
    rows = [*square(), row("clutrr", None, model="big"), row("truthfulqa", 0.0, model="big")]
    matrix = transfer_matrix(results(*rows), HEADLINE, 8)
    first = draw_transfer(matrix, tmp_path / "a" / "transfer", title="Transfer", headline=HEADLINE, n_heads=K)
    second = draw_transfer(matrix, tmp_path / "b" / "transfer", title="Transfer", headline=HEADLINE, n_heads=K)
    assert [path.name for path in first] == ["transfer.pdf", "transfer.png", "transfer.csv"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert first[0].read_bytes().startswith(b"%PDF")
    assert b"CreationDate" not in first[0].read_bytes()
    assert first[1].read_bytes().startswith(b"\x89PNG")
    read = pd.read_csv(first[2], float_precision="round_trip").fillna({"note": ""})
    pd.testing.assert_frame_equal(read, matrix, check_dtype=False)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in first}


def figure_drawn(matrix: pd.DataFrame, headline: dict[str, str], stem: Path) -> Figure:
    figures = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lofit.report.figures.save_figure", lambda figure, stem: figures.append(figure) or [])
        draw_transfer(matrix, stem, title="Transfer", headline=headline, n_heads=K)
    (figure,) = figures
    return figure


def texts_drawn(matrix: pd.DataFrame, headline: dict[str, str], stem: Path) -> tuple[set[str], bool]:
    """Return the texts of the figure, and whether all that is drawn lies on the page."""
    figure = figure_drawn(matrix, headline, stem)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(canvas.get_renderer()), figure.get_size_inches()
    inside = drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= width and drawn.y1 <= height
    return {text.get_text() for text in figure.findobj(Text)}, bool(inside)


def test_every_cell_and_label_is_drawn_on_the_page(tmp_path: Path) -> None:
    rows = [*square(), row("clutrr", None, model="big"), row("truthfulqa", 0.0, model="big")]
    drawn, inside = texts_drawn(transfer_matrix(results(*rows), HEADLINE, 8), HEADLINE, tmp_path / "t")
    wanted = {"75%", "(30.0)", "120%", "(60.0)", "100%", "failed", "missing", "n/a", "(0.0)", "tiny", "big"}
    wanted |= {"clutrr\n(exact_match)", "heads selected on", "offsets trained and evaluated on"}
    wanted |= {"score relative to same-task heads", "truthfulqa"}
    assert wanted <= drawn
    assert inside


def test_rows_are_the_tasks_of_the_heads_and_columns_those_trained_for(tmp_path: Path) -> None:
    panel = figure_drawn(transfer_matrix(results(*square()), HEADLINE, 8), HEADLINE, tmp_path / "t").axes[0]
    columns, rows = ([label.get_text() for label in axis.get_ticklabels()] for axis in (panel.xaxis, panel.yaxis))
    found = {}
    for text in panel.texts:
        if isinstance(text, Annotation) and text.get_text().startswith("("):
            column, row = text.xy
            found[rows[int(row)], columns[int(column)].split("\n")[0]] = text.get_text()
    assert found == {
        ("truthfulqa", "truthfulqa"): "(40.0)", ("clutrr", "truthfulqa"): "(30.0)",
        ("clutrr", "clutrr"): "(50.0)", ("truthfulqa", "clutrr"): "(60.0)",
    }  # fmt: skip


def test_long_names_of_many_tasks_stay_on_the_page(tmp_path: Path) -> None:
    tasks = {f"a_task_with_a_long_name_{number}": "exact_match" for number in range(6)}
    rows = [
        row("clutrr", 0.5) | {"task": task, "head_task": head, "eval_task": task, "run_id": f"{head}-{task}"}
        for task in tasks
        for head in tasks
    ]
    drawn, inside = texts_drawn(transfer_matrix(results(*rows), tasks, 8), tasks, tmp_path / "t")
    assert {f"{task}\n(exact_match)" for task in tasks} <= drawn
    assert inside


def test_caption_counts_items_and_seeds() -> None:
    runs = [(run, [0.0] * (3 if run["task"] == "clutrr" else 2)) for run in square()]
    matrix = transfer_matrix(results(*square()), HEADLINE, 8, scored(*runs))
    assert matrix["n_items"].tolist() == [2, 3, 2, 3]
    assert "K = 8 heads; n = 2 to 3 test items, 1 seed." in caption(matrix, K)
    assert "CSV" not in caption(matrix, K)
    runs += [(row("clutrr", 0.7, seed=1), [0.0] * 3), (row("clutrr", None, seed=2), [])]
    matrix = transfer_matrix(results(*(run for run, _ in runs)), HEADLINE, 8, scored(*runs))
    assert "n = 2 to 3 test items, 1 to 2 seeds" in caption(matrix, K)
    assert "What failed or is missing, and why: see the CSV." in caption(matrix, K)
    nothing = transfer_matrix(results(row("clutrr", None)), HEADLINE, 8)
    assert "K = 8 heads; no scores." in caption(nothing, K)


def test_caption_names_the_heads_of_each_model_where_they_differ() -> None:
    text = caption(transfer_matrix(results(*square()), HEADLINE, 8), {"tiny": 8, "big": 96})
    assert "K = 8 (tiny), 96 (big) heads" in text


def test_other_methods_and_selectors_can_be_asked_for() -> None:
    rows = [entry | {"method": "iti", "selector": "probe"} for entry in square()]
    matrix = transfer_matrix(results(*rows), HEADLINE, 8, method="iti", selector="probe")
    assert cell(matrix, "clutrr", "truthfulqa")["relative"] == pytest.approx(0.75)


def test_folds_of_different_sizes_share_a_cell() -> None:
    rows = [row("truthfulqa", 0.4, fold=0, n_train=326), row("truthfulqa", 0.6, fold=1, n_train=327)]
    assert cell(transfer_matrix(results(*rows), HEADLINE, 8), "truthfulqa", "truthfulqa")["value"] == pytest.approx(0.5)


def test_a_model_without_runs_for_a_task_shows_them_missing(tmp_path: Path) -> None:
    one = transfer_matrix(results(*square()), HEADLINE, 8)
    other = transfer_matrix(results(row("clutrr", 0.5, model="big")), HEADLINE, 8)
    drawn = draw_transfer(
        pd.concat([one, other]), tmp_path / "t", title="Transfer", headline=HEADLINE, n_heads={"tiny": 8, "big": 8}
    )
    assert all(path.stat().st_size > 0 for path in drawn)


def test_ink_contrasts_with_the_cell() -> None:
    assert ink_on((1.0, 1.0, 1.0, 1.0)) == "black"
    assert ink_on((0.2, 0.0, 0.3, 1.0)) == "white"


def test_cells_are_marked_where_the_tasks_own_heads_are_better(tmp_path: Path) -> None:
    wins = {"clutrr": 60, "truthfulqa": 53}  # of 100 items, with heads of the other task: 40 and 50
    runs = []
    for task, other, n in (("clutrr", "truthfulqa", 40), ("truthfulqa", "clutrr", 50)):
        runs.append((row(task, wins[task] / 100), [1.0] * wins[task] + [0.0] * (100 - wins[task])))
        runs.append((row(task, n / 100, head_task=other), [1.0] * n + [0.0] * (100 - n)))
    matrix = transfer_matrix(results(*(run for run, _ in runs)), HEADLINE, 8, scored(*runs))
    assert math.isnan(cell(matrix, "clutrr", "clutrr")["p"])
    worse = cell(matrix, "truthfulqa", "clutrr")
    assert worse["p"] < 0.001
    # Fieller's interval of the ratio of two paired means is all ratios r for which a - r b does not differ from 0.
    ours, own = (np.array([1.0] * n + [0.0] * (100 - n)) for n in (40, 60))
    fieller = [r for r in np.arange(0, 1.5, 0.001) if stats.ttest_1samp(ours - r * own, 0).pvalue > 0.05]
    assert (worse["relative_low"], worse["relative_high"]) == pytest.approx((fieller[0], fieller[-1]), abs=0.01)
    # Three items changed, all for the better: the resamples without any of them are (1 - .03)^100, about 5%.
    assert cell(matrix, "clutrr", "truthfulqa")["p"] == pytest.approx(0.97**100, abs=0.015)
    drawn, _ = texts_drawn(
        matrix.assign(p=matrix["p"].where(matrix["p"].isna() | (matrix["p"] < 0.01), 0.07)), HEADLINE, tmp_path / "t"
    )
    assert {"67%*", "94%°", "100%"} <= drawn
    text = caption(matrix, K)
    assert "Lower than with heads of the same task: * p ≤ 0.05, ° p ≤ 0.1 (one-sided paired" in text
    assert "uncorrected, as in the paper). Corrected for all cells of a model, 1 is lower at p ≤ 0.05." in text


def test_a_matrix_is_the_same_every_time() -> None:
    runs = [
        (run, [i * step % 101 / 101 for i in range(50)]) for run, step in zip(square(), (7, 11, 13, 17), strict=True)
    ]
    first, second = (transfer_matrix(results(*square()), HEADLINE, 8, scored(*runs)) for _ in range(2))
    assert first["p"].between(0.05, 0.95).any()
    pd.testing.assert_frame_equal(first, second)


def by_hand(p_values: list[float]) -> list[float]:
    """Holm (1979), by definition: the i-th smallest of m times m - i + 1, at least the one before it and at most 1."""
    corrected, least = [math.nan] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for done, i in enumerate(order):
        least = max(least, min(1.0, (len(order) - done) * p_values[i]))
        corrected[i] = least
    return corrected


def test_corrected_p_values_are_holms_over_the_tests_of_each_model(tmp_path: Path) -> None:
    tasks = {"a": "acc", "b": "acc", "c": "acc"}
    runs = []
    for model, n in (("tiny", 12), ("big", 30)):
        for t, task in enumerate(tasks):
            for h, head in enumerate(tasks):
                right = n if head == task else n - 1 - 2 * t - h
                values = [1.0] * right + [0.0] * (n - right)
                run = row("clutrr", right / n, model=model, head_task=head, metric="acc")
                run |= {"task": task, "eval_task": task, "run_id": f"{model}-{head}-{task}"}
                runs.append((run, values))
    runs[1] = (runs[1][0] | {"value": math.nan, "metric": None, "status": "failed: out of memory"}, [])
    matrix = transfer_matrix(results(*(run for run, _ in runs)), tasks, 8, scored(*runs))
    for model, tests in (("tiny", 5), ("big", 6)):
        tested = matrix[(matrix["model"] == model) & matrix["p"].notna()]
        assert len(tested) == tests
        assert tested["p"].nunique() > 2
        assert tested["p_holm"].tolist() == pytest.approx(by_hand(tested["p"].tolist()))
    assert (matrix["p_holm"].isna() == matrix["p"].isna()).all()
    raw = (matrix["p"] <= 0.05) & (matrix["p_holm"] > 0.1)  # marked although the corrected value would not be
    assert raw.any()
    drawn, _ = texts_drawn(matrix, tasks, tmp_path / "t")
    assert all(f"{100 * relative:.0f}%*" in drawn for relative in matrix.loc[raw, "relative"])


def test_the_row_of_random_heads_is_relative_to_the_tasks_own_and_tested_against_them(tmp_path: Path) -> None:
    runs = [(run, [1.0] * round(100 * run["value"]) + [0.0] * (100 - round(100 * run["value"]))) for run in square()]
    for task, right in (("truthfulqa", 20), ("clutrr", 49)):
        run = row(task, right / 100, selector="random", run_id=f"random-{task}")
        runs.append((run, [1.0] * right + [0.0] * (100 - right)))
    frame, items = results(*(run for run, _ in runs)), scored(*runs)
    without = transfer_matrix(frame, HEADLINE, 8, items)
    assert RANDOM_HEADS not in set(without["head_task"])
    matrix = transfer_matrix(frame, HEADLINE, 8, items, random_row=True)
    assert matrix["head_task"].unique().tolist() == ["truthfulqa", "clutrr", RANDOM_HEADS]
    worse, alike = cell(matrix, RANDOM_HEADS, "truthfulqa"), cell(matrix, RANDOM_HEADS, "clutrr")
    assert (worse["value"], worse["relative"]) == (pytest.approx(0.2), pytest.approx(0.2 / 0.4))
    assert alike["relative"] == pytest.approx(0.49 / 0.5)
    assert worse["p"] < 0.001 < 0.1 < alike["p"]
    assert matrix["p"].notna().sum() == 4, "Holm's correction is over them all"
    assert matrix["p_holm"].dropna().tolist() == pytest.approx(by_hand(matrix["p"].dropna().tolist()))
    same = matrix[matrix["head_task"] != RANDOM_HEADS].drop(columns=["p", "p_holm"])
    pd.testing.assert_frame_equal(same, without.drop(columns=["p", "p_holm"]))
    assert "Last row: K heads drawn at random, anew for each task and seed." in caption(matrix, K)
    assert "Last row" not in caption(without, K)
    panel = figure_drawn(matrix, HEADLINE, tmp_path / "t").axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["truthfulqa", "clutrr", RANDOM_HEADS]
    drawn, inside = texts_drawn(matrix, HEADLINE, tmp_path / "t")
    assert {"50%*", "(20.0)", "98%"} <= drawn
    assert inside


def test_random_heads_without_a_run_or_a_result_are_shown_as_such() -> None:
    lost = row("clutrr", None, selector="random", run_id="random-clutrr")
    matrix = transfer_matrix(results(*square(), lost), HEADLINE, 8, random_row=True)
    assert cell(matrix, RANDOM_HEADS, "clutrr")["status"] == "failed"
    assert cell(matrix, RANDOM_HEADS, "truthfulqa")["status"] == "missing"
