from __future__ import annotations

import math
import re
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from lofit.errors import ReportError
from lofit.report.tables import print_table, write_table
from tests.unit.report.frames import HEADLINE, main_table, plain, results, row, scored

HOSTILE = r"failed: 100% of C:\x_y & {z} ~^#$|"


def line(frame: pd.DataFrame, method: str) -> pd.Series:
    found = frame[frame["method"] == method]
    assert len(found) == 1
    return found.iloc[0]


def test_folds_are_averaged_within_a_seed_then_seeds() -> None:
    # Seed means 0.4 and 0.7: mean 0.55, sample standard deviation 0.3 / sqrt(2) = 0.21213...
    frame = main_table(
        results(
            row("truthfulqa", 0.3, fold=0, seed=0),
            row("truthfulqa", 0.5, fold=1, seed=0),
            row("truthfulqa", 0.6, fold=0, seed=1),
            row("truthfulqa", 0.8, fold=1, seed=1),
            row("clutrr", 0.25, seed=0),
            row("clutrr", 0.75, seed=1),
        ),
        HEADLINE,
    )
    cells = line(frame, "lofit (8 heads)")
    assert cells["truthfulqa"] == "55.0"
    assert cells["truthfulqa.percent"] == pytest.approx(55)
    assert cells["truthfulqa.percent_std"] == pytest.approx(30 / math.sqrt(2))
    half = 12.706 * 15  # Student's t of one degree of freedom, times the standard error
    middle = cells["truthfulqa.percent"]
    assert (cells["truthfulqa.seed_low"], cells["truthfulqa.seed_high"]) == pytest.approx(
        (middle - half, middle + half), abs=0.01
    )
    assert cells["clutrr"] == "50.0"
    assert cells["seeds"] == 2
    assert cells["trained parameters"] == "6,144"
    assert cells["truthfulqa.metric"] == "mc1"


def test_one_seed_has_no_spread() -> None:
    cells = line(main_table(results(row("clutrr", 0.123)), HEADLINE), "lofit (8 heads)")
    assert cells["clutrr"] == "12.3"
    assert math.isnan(cells["clutrr.percent_std"])


def test_failed_missing_and_zero_are_told_apart() -> None:
    frame = main_table(results(plain("clutrr", None), plain("clutrr", 0.0, method="red")), HEADLINE)
    lora, red = line(frame, "lora"), line(frame, "red")
    assert (lora["clutrr"], lora["truthfulqa"]) == ("failed", "-")
    assert red["clutrr"] == "0.0"
    assert math.isnan(lora["clutrr.percent"])
    assert "out of memory" in lora["note"]
    assert lora["trained parameters"] == "-"


def test_partial_failure_is_marked_and_explained() -> None:
    frame = main_table(results(row("clutrr", 0.5, seed=0), row("clutrr", None, seed=1)), HEADLINE)
    cells = line(frame, "lofit (8 heads)")
    assert cells["clutrr"] == "50.0†"
    assert cells["note"] == "clutrr: 1 of 2 seeds (seed 1 failed: out of memory)"


def test_a_seed_with_a_failed_fold_does_not_count() -> None:
    """Neither in the value nor in the test: only with that seed does the method differ from the best."""
    runs = [
        (row("truthfulqa", 0.5, seed=0, fold=0, eval_fold=0), [0.0, 1.0] * 10),
        (row("truthfulqa", 0.5, seed=0, fold=1, eval_fold=1), [0.0, 1.0] * 10),
        (row("truthfulqa", 0.0, seed=1, fold=0, eval_fold=0), [0.0] * 20),
        (row("truthfulqa", None, seed=1, fold=1, eval_fold=1), []),
        (plain("truthfulqa", 0.5, fold=0, eval_fold=0), [0.0, 1.0] * 10),
        (plain("truthfulqa", 0.55, fold=1, eval_fold=1), [1.0, *[0.0, 1.0] * 9, 1.0]),
    ]
    frame = main_table(results(*(run for run, _ in runs)), HEADLINE, scored(*runs))
    cells = line(frame, "lofit (8 heads)")
    assert re.fullmatch(r"50\.0 \[\d\d\.\d, \d\d\.\d\]†", cells["truthfulqa"])
    assert "seed 1 fold 1 failed: out of memory" in cells["note"]
    assert cells["truthfulqa.p_best"] > 0.5


def test_a_seed_that_another_task_has_is_missed() -> None:
    frame = main_table(
        results(row("clutrr", 0.5, seed=0), row("clutrr", 0.5, seed=1), row("truthfulqa", 0.4, seed=0)), HEADLINE
    )
    cells = line(frame, "lofit (8 heads)")
    assert cells["truthfulqa"] == "40.0†"
    assert "truthfulqa: 1 of 2 seeds (seed 1 missing)" in cells["note"]


def test_an_absent_fold_is_missing_not_averaged_away() -> None:
    frame = main_table(
        results(
            row("truthfulqa", 0.2, fold=0), row("truthfulqa", 0.4, fold=1), plain("truthfulqa", 0.9, fold=0),
        ),
        HEADLINE,
    )  # fmt: skip
    assert line(frame, "lora")["truthfulqa"] == "-"
    assert "seed 0 fold 1 missing" in line(frame, "lora")["note"]


def test_only_own_heads_own_task_and_headline_metric_count() -> None:
    frame = main_table(
        results(
            row("clutrr", 0.5),
            row("clutrr", 0.9, head_task="truthfulqa"),
            row("clutrr", 0.8, metric="f1"),
            row("clutrr", 0.1, eval_task="mmlu", metric="acc"),
        ),
        HEADLINE,
    )
    assert frame["clutrr"].tolist() == ["50.0"]


def test_variants_never_share_a_cell() -> None:
    frame = main_table(
        results(
            row("clutrr", 0.1, n_heads=8),
            row("clutrr", 0.2, n_heads=16),
            row("clutrr", 0.3, n_heads=8, selector="random", run_id="r"),
            plain("clutrr", 0.4, method="zero_shot", trained_params=None),
        ),
        HEADLINE,
    )
    assert dict(zip(frame["method"], frame["clutrr"], strict=True)) == {
        "lofit (8 heads, selected by lofit)": "10.0",
        "lofit (16 heads, selected by lofit)": "20.0",
        "lofit (8 heads, selected by random)": "30.0",
        "zero_shot": "40.0",
    }


def test_training_sizes_are_shown_where_they_differ() -> None:
    frame = main_table(results(row("clutrr", 0.1, n_train=50), row("clutrr", 0.2, n_train=100)), HEADLINE)
    assert frame["method"].tolist() == ["lofit (8 heads, 50 examples)", "lofit (8 heads, 100 examples)"]
    frame = main_table(results(row("clutrr", 0.1, n_train=50), row("truthfulqa", 0.2, n_train=100)), HEADLINE)
    assert frame["method"].tolist() == ["lofit (8 heads)"]


def test_folds_of_different_sizes_share_a_row() -> None:
    rows = [row("truthfulqa", 0.4, fold=0, n_train=326), row("truthfulqa", 0.6, fold=1, n_train=327)]
    frame = main_table(results(*rows), HEADLINE)
    assert (frame["method"].tolist(), frame["truthfulqa"].tolist()) == (["lofit (8 heads)"], ["50.0"])


def test_parameters_that_differ_are_a_range() -> None:
    frame = main_table(results(row("clutrr", 0.1), row("truthfulqa", 0.2, trained_params=12288)), HEADLINE)
    assert frame["trained parameters"].tolist() == ["6,144 to 12,288"]


def test_protocols_are_never_mixed() -> None:
    mixed = results(row("clutrr", 0.1), plain("clutrr", 0.2, protocol="lm-eval"))
    with pytest.raises(ReportError, match="clutrr was evaluated under the protocols lm-eval, paper"):
        main_table(mixed, HEADLINE)
    frame = main_table(results(row("clutrr", 0.1), row("truthfulqa", 0.2, protocol="lm-eval")), HEADLINE)
    assert (frame["clutrr.protocol"].iloc[0], frame["truthfulqa.protocol"].iloc[0]) == ("paper", "lm-eval")


def test_two_runs_for_one_cell_are_refused() -> None:
    with pytest.raises(ReportError, match="runs x, y fill the same cell"):
        main_table(results(row("clutrr", 0.1, run_id="x"), row("clutrr", 0.2, run_id="y")), HEADLINE)


def test_wrong_headlines_are_refused() -> None:
    with pytest.raises(ReportError, match="no headline metric is given for task clutrr"):
        main_table(results(row("clutrr", 0.1)), {"truthfulqa": "mc1"})
    with pytest.raises(ReportError, match="has no metric em for task clutrr, only exact_match"):
        main_table(results(row("clutrr", 0.1)), {"clutrr": "em"})
    with pytest.raises(ReportError, match="no run evaluated on the task"):
        main_table(results(row("clutrr", 0.1, eval_task="mmlu")), HEADLINE)
    with pytest.raises(ReportError, match="lack the columns"):
        main_table(pd.DataFrame({"run_id": ["a"]}), HEADLINE)


@pytest.fixture
def example() -> pd.DataFrame:
    return main_table(
        results(
            row("clutrr", 0.5, seed=0), row("clutrr", 0.6, seed=1),
            row("truthfulqa", 0.1, seed=0), row("truthfulqa", None, seed=1, status=HOSTILE),
            plain("clutrr", 0.2, method="zero_shot", trained_params=None),
            plain("truthfulqa", 0.4, method="zero_shot", trained_params=None),
            row("clutrr", None, model="big_7b"),
        ),
        HEADLINE,
    )  # fmt: skip


def test_csv_round_trip(example: pd.DataFrame, tmp_path: Path) -> None:
    path = write_table(example, tmp_path / "main.v1")[0]
    assert path.name == "main.v1.csv"
    back = pd.read_csv(path, float_precision="round_trip")
    numbers = [name for name in example.columns if name.endswith((".percent", ".percent_std"))]
    pd.testing.assert_frame_equal(back[numbers], example[numbers])
    assert back["clutrr"].tolist() == example["clutrr"].tolist()
    assert back["truthfulqa"].tolist() == ["10.0†", "40.0", "-"]


def test_markdown(example: pd.DataFrame, tmp_path: Path) -> None:
    text = write_table(example, tmp_path / "main")[1].read_text(encoding="utf-8")
    lines = text.splitlines()
    rows = [re.split(r"\s*(?<!\\)\|\s*", entry)[1:-1] for entry in lines if entry.startswith("| ")]
    assert rows[1] == ["tiny", "lofit (8 heads)", "10.0†", "**55.0**", "2", "6,144"]
    assert rows[2] == ["tiny", "zero_shot", "**40.0**", "20.0", "1", "-"]
    assert rows[3] == ["big_7b", "lofit (8 heads)", "-", "failed", "1", "-"]
    assert "95% interval over clusters of test items and over seeds (rough: 2 seeds)" in text
    assert "1 of 2 seeds" in text


def test_latex_is_balanced_and_escaped(example: pd.DataFrame, tmp_path: Path) -> None:
    text = write_table(example, tmp_path / "main")[2].read_text(encoding="utf-8")
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 1
    assert r"big\_7b & lofit (8 heads) & - & failed & 1 & - \\" in text
    assert r"\textbf{55.0}" in text
    assert r"10.0$^{\dagger}$" in text
    assert text.count(r"\textbf") == 2
    hostile = r"100\% of C:\textbackslash{}x\_y \& \{z\} \textasciitilde{}\textasciicircum{}\#\$\textbar{}"
    assert hostile in text
    bare = re.sub(r"\\[\\&%$#_{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert "_" not in bare.replace(r"\label{tab:", "")
    assert re.findall(r"\\begin\{(\w+)\}", text) == ["table", "tabular", "flushleft"]
    wide = re.search(
        r"\\resizebox\{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi\}\{!\}\{%\n(.*?)\}\n\\begin\{f",
        text,
        re.S,
    )
    assert wide, "a table that is wider than the text is scaled down"
    assert wide[1].startswith(r"\begin{tabular}")
    assert wide[1].endswith(r"\end{tabular}")
    assert sorted(re.findall(r"\\begin\{(\w+)\}", text)) == sorted(re.findall(r"\\end\{(\w+)\}", text))
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    assert {len(re.findall(r"(?<!\\)&", entry)) for entry in body.splitlines() if entry.endswith(r"\\")} == {5}


def test_what_the_items_do_not_tell_from_the_best_is_bold_too_and_a_lone_value_is_not(tmp_path: Path) -> None:
    right = {"lora": 90, "red": 88, "full": 60}
    runs = [(plain("clutrr", n / 100, method), [1.0] * n + [0.0] * (100 - n)) for method, n in right.items()]
    lone = (row("clutrr", 0.9, model="b"), [1.0] * 90 + [0.0] * 10)
    failed = plain("clutrr", None, "iti")
    frame = main_table(results(*(run for run, _ in [*runs, lone]), failed), HEADLINE, scored(*runs, lone))
    body = write_table(frame, tmp_path / "main")[2].read_text(encoding="utf-8")
    assert re.findall(r"textbf\{([\d.]+) \[84\.\d, 9\d\.\d\]\}|textbf\{(88.0) ", body) == [("90.0", ""), ("", "88.0")]
    red, full = line(frame, "red"), line(frame, "full")
    assert red["clutrr.p_best"] == pytest.approx(stats.ttest_1samp([1.0] * 2 + [0.0] * 98, 0).pvalue)
    assert full["clutrr.p_best"] < 0.01
    assert math.isnan(line(frame, "lora")["clutrr.p_best"])
    low, high = red["clutrr.percent_low"], red["clutrr.percent_high"]
    assert (low, high) == pytest.approx((88 - 6.48, 88 + 6.48), abs=0.01)


def test_values_that_are_equal_are_all_best(tmp_path: Path) -> None:
    runs = (plain("clutrr", 0.5), plain("clutrr", 0.5, "red"), plain("clutrr", 0.4, "full"))
    text = write_table(main_table(results(*runs), HEADLINE), tmp_path / "main")[1].read_text(encoding="utf-8")
    assert text.count("**50.0**") == text.count("**") / 2 == 2


def test_terminal_table_shows_every_cell(example: pd.DataFrame) -> None:
    out = StringIO()
    print_table(example, Console(file=out, width=120))
    text = out.getvalue()
    for word in ("tiny", "big_7b", "lofit (8 heads)", "zero_shot", "55.0", "10.0†", "failed", "1 of 2 seeds"):
        assert word in text


def test_terminal_markup_in_names_is_text() -> None:
    out = StringIO()
    print_table(main_table(results(plain("clutrr", 0.1, method="[bold]x")), HEADLINE), Console(file=out, width=120))
    assert "[bold]x" in out.getvalue()


def test_heads_of_another_task_are_shown_unless_they_belong_to_the_heat_map() -> None:
    moved = [row("clutrr", 0.3, head_task="truthfulqa"), row("truthfulqa", 0.4)]
    frame = main_table(results(*moved), HEADLINE)
    assert frame[["method", "truthfulqa", "clutrr"]].to_numpy().tolist() == [
        ["lofit (8 heads of truthfulqa)", "40.0", "30.0"]
    ]
    frame = main_table(results(*moved, row("clutrr", 0.5)), HEADLINE)
    assert frame["method"].tolist() == ["lofit (8 heads)"]
