from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from lofit.cli.app import app
from lofit.config import NAME, load_config, parse_config
from lofit.errors import ConfigError
from lofit.methods import method_names
from lofit.plan.published import COLUMNS, FOLDER, NO_COUNTERPART, TRAINED, coverage, matching_runs, read_published
from lofit.plan.table import MAIN, RunTable
from lofit.report.expected import our_mean
from lofit.sources.catalog import load_catalog
from lofit.tasks import load_task

CONFIG = Path(__file__).parents[3] / "config"
SCORES = {
    ("a", 0, "mc1"): [1.0, 0.0],
    ("a", 1, "mc1"): [1.0, 1.0, 1.0, 0.0],
    ("a", 0, "mc2"): [0.5, 0.5],
    ("a", 1, "mc2"): [0.25, 0.75, 0.5, 0.5],
    ("b", 0, "exact_match"): [0.0, 1.0, 1.0, 1.0],
}


def frames(status: str = "ok") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Results and items of one method on a task of two folds and two metrics, and on one of one."""
    rows, items = [], []
    for (task, fold, metric), values in SCORES.items():
        where = {"run_id": f"{task}{fold}", "eval_task": task, "eval_fold": fold, "protocol": "paper", "metric": metric}
        rows.append(
            where | {"method": "lora", "task": task, "seed": 0, "value": sum(values) / len(values), "status": status}
        )
        items += [where | {"item": str(i), "cluster": str(i), "value": value} for i, value in enumerate(values)]
    return pd.DataFrame(rows), pd.DataFrame(items)


def test_a_mean_weighs_metrics_and_folds_alike() -> None:
    found = our_mean(*frames(), ["a", "a", "b"], ["mc1", "mc2", "exact_match"])
    assert found.value == pytest.approx(((0.5 + 0.75) / 2 + (0.5 + 0.5) / 2 + 0.75) / 3)
    folds = [pd.Series([0.75, 0.25]), pd.Series([0.625, 0.875, 0.75, 0.25])]
    of_a = sum(fold.var() / len(fold) for fold in folds) / 4
    of_b = pd.Series(SCORES["b", 0, "exact_match"]).var() / 4
    assert found.variance == pytest.approx((2 / 3) ** 2 * of_a + (1 / 3) ** 2 * of_b)
    assert found.n_items == 2 + 4 + 4  # however many metrics


def test_a_second_item_of_each_cluster_that_scores_the_same_changes_nothing() -> None:
    rows, items = frames()
    twice = pd.concat([items, items.assign(item=items["item"] + " again")])
    once, found = (our_mean(rows, each, ["b"], ["exact_match"]) for each in (items, twice))
    assert (found.value, found.variance) == pytest.approx((once.value, once.variance))
    assert found.n_items == 2 * once.n_items


def test_a_failed_run_or_an_absent_metric_has_no_mean() -> None:
    assert math.isnan(our_mean(*frames("failed: out of memory"), ["b"], ["exact_match"]).value)
    assert math.isnan(our_mean(*frames(), ["b"], ["acc"]).value)


def test_published_values_name_what_exists_and_where_it_was_read() -> None:
    metrics = {"truthfulqa": {"mc1", "mc2", "true", "informative", "true_x_informative"}}
    rows = read_published(FOLDER / "published.tsv")
    for row in rows:
        assert row.source
        assert row.source_kind in ("primary", "secondary", "secondary + derived")
        assert (row.source_kind == "secondary + derived") == (row.artefact == "peft")
        assert len(row.tasks) == len(row.metrics) or row.metrics[0] in (TRAINED, *NO_COUNTERPART)
        for task, metric in zip(row.tasks, row.metrics, strict=False):
            assert metric in metrics.get(task, {load_task(task).headline})
        assert not row.tasks or 10 < row.value < 100  # percent, never a fraction
        assert row.model != "(unknown)" or "model and setting unknown" in row.setting
    assert {row.metrics[0] for row in rows if row.metrics[0] in NO_COUNTERPART} == set(NO_COUNTERPART)
    strangers = {"llama-2-13b-chat", "llama-3-8b-instruct", "(unknown)"}
    assert {row.model for row in rows} - set(load_catalog()) == strangers
    assert not re.fullmatch(NAME, "(unknown)")  # no model of one's own can be called so
    unmatched = {row.method for row in rows if row.artefact == MAIN} - set(method_names())
    assert unmatched == {
        "lora_sft", "truthful_prompt", "LoFiT", "JoLA", "adalora", "ralfit", "real_lofit", "post_block_silu",
        "post_block_rank1",
    }  # fmt: skip


TRUTHFULQA = {
    ("llama-2-7b-chat", "base", "baseline of the ITI replication"): (34, 51),
    ("llama-2-7b-chat", "iti", "48 heads, alpha 15"): (40, 58),
    ("llama-2-13b-chat", "base", "baseline of the ITI replication"): (35, 53),
    ("llama-2-13b-chat", "iti", "48 heads, alpha 15"): (36, 55),
    ("llama-3-8b-instruct", "base", "baseline of the ITI replication"): (39, 59),
    ("llama-3-8b-instruct", "iti", "48 heads, alpha 15"): (41, 61),
    ("llama-2-7b-chat", "lora_sft", "LoRA, supervised"): (41.01, 58.74),
    ("llama-2-7b-chat", "lora", "LoRA, DPO"): (57.78, 75.24),
    ("llama-2-7b", "lofit", "as REAL's paper compares it"): (58.14, 75.83),
    ("llama-2-7b", "real_lofit", "REAL's heads, LoFiT's offsets"): (59.61, 77.48),
    ("llama-2-7b-chat", "ralfit", ""): (60.22, 77.76),
}
"""MC1 and MC2 by model, method and setting."""
OTHERS = [
    ("main", "llama-2-7b-chat", "truthfulqa", "mc1", "base", "zero-shot", 31.33),
    ("main", "llama-2-7b-chat", "truthfulqa", "mc1", "truthful_prompt", "truthful prompt", 31.70),
    *(
        ("main", "(unknown)", task, metric, "JoLA", "model and setting unknown", value)
        for task, metric, value in (
            ("winogrande", "acc", 75.7), ("arc_challenge", "acc", 88.1), ("gsm8k", "exact_match", 38.9),
            ("listops", "exact_match", 64.5), ("boolq", "acc", 90.5),
        )
    ),
    (
        "main", "(unknown)", "", "average_delta", "JoLA",
        "model and setting unknown; suite average, most likely of the difference to full fine-tuning", -8.9,
    ),
    ("main", "(unknown)", "winogrande", "acc", "LoFiT", "model and setting unknown", 77.8),
    ("main", "(unknown)", "arc_challenge", "acc", "LoFiT", "model and setting unknown", 87.6),
    ("main", "(unknown)", "gsm8k", "exact_match", "LoFiT", "model and setting unknown", 39.8),
    ("main", "(unknown)", "listops", "exact_match", "LoFiT", "model and setting unknown", 65.3),
    ("main", "(unknown)", "boolq", "acc", "LoFiT", "model and setting unknown", 90.2),
    (
        "main", "(unknown)", "", "average_delta", "LoFiT",
        "model and setting unknown; suite average, most likely of the difference to full fine-tuning", -9.2,
    ),
    ("peft", "llama-2-7b", "", "trained_params", "LoFiT (10%)", "96 heads x head dim 128", 12000),
    ("peft", "llama-2-7b", "", "trained_percent", "LoFiT (10%)", "96 heads x head dim 128", 0.0002),
    ("peft", "llama-2-7b", "", "trained_params", "LoRA", "rank 8 on q and v", 4190000),
    ("peft", "llama-2-7b", "", "trained_params", "LoReFT", "rank 8 on 32 layers", 2100000),
]  # fmt: skip


def test_published_values_are_those_that_were_read() -> None:
    wanted = [
        ("main", model, "truthfulqa", metric, method, setting, value)
        for (model, method, setting), values in TRUTHFULQA.items()
        for metric, value in zip(("mc1", "mc2"), values, strict=True)
    ]
    found = [
        (row.artefact, row.model, ", ".join(row.tasks), ", ".join(row.metrics), row.method, row.setting, row.value)
        for row in read_published(FOLDER / "published.tsv")
    ]
    assert [key for key in wanted + OTHERS if found.count(key) != 1] == []
    assert len(found) == 169
    assert len({key[:-1] for key in found}) == len(found)  # no two values of one run
    for name in ("(unknown)", "llama-2-13b-chat", "llama-3-8b-instruct"):
        assert {key for key in found if key[1] == name} == {key for key in wanted + OTHERS if key[1] == name}


GOOD = dict(
    artefact="main", model="llama-2-7b", task="boolq", metric="acc", method="lora", setting="", value="71.5",
    source="a paper", source_kind="primary", checked="",
)  # fmt: skip


def written(folder: Path, *rows: dict[str, str]) -> Path:
    """A file of such rows."""
    path = folder / "own.tsv"
    lines = [COLUMNS, *(row.values() for row in rows)]
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_rows_of_ones_own_are_read(tmp_path: Path) -> None:
    mean = GOOD | {"task": "boolq, siqa", "metric": "acc, acc", "source_kind": "secondary + derived"}
    count = GOOD | {"task": "", "metric": TRAINED, "value": "4194304"}
    first, second, third = read_published(written(tmp_path, GOOD, mean, count))
    assert (first.tasks, first.metrics, first.value) == (("boolq",), ("acc",), 71.5)
    assert (second.tasks, second.source_kind) == (("boolq", "siqa"), "secondary + derived")
    assert (third.tasks, third.metrics, third.value) == ((), (TRAINED,), 4194304)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"value": ""}, "value '' is not a percentage from 0 to 100; fix it"),
        ({"value": "-9.2"}, "value '-9.2' is not a percentage from 0 to 100; fix it"),
        ({"value": "nan"}, "value 'nan' is not a percentage from 0 to 100; fix it"),
        ({"value": "100.5"}, "value '100.5' is not a percentage from 0 to 100; fix it"),
        ({"metric": TRAINED, "task": "", "value": "12K"}, "value '12K' is not a number of parameters; fix it"),
        ({"metric": TRAINED, "task": "", "value": "inf"}, "value 'inf' is not a number of parameters; fix it"),
        (
            {"metric": "average_delta", "task": "", "value": "-120"},
            "value '-120' is not a percentage from -100 to 100; fix it",
        ),
        ({"metric": TRAINED}, "metric trained_params stands alone and without a task; fix the line"),
        ({"metric": "average_delta"}, "metric average_delta stands alone and without a task; fix the line"),
        ({"task": ""}, "0 tasks for 1 metrics; give one task per metric"),
        ({"metric": "acc, acc"}, "1 tasks for 2 metrics; give one task per metric"),
        ({"task": ", ", "metric": ", "}, "0 tasks for 0 metrics; give one task per metric"),
        ({"source": ""}, "source is empty; fill it in"),
        ({"metric": ""}, "metric is empty; fill it in"),
        ({"source_kind": "rumour"}, "source_kind 'rumour' is none of primary, secondary, derived; give one"),
        ({"source_kind": "primary + "}, "source_kind 'primary + ' is none of primary, secondary, derived; give one"),
        ({"checked": "a\tb"}, "a row has 10 cells with a tab between them; fix the line"),
    ],
)
def test_a_bad_row_is_refused_in_one_line(tmp_path: Path, change: dict[str, str], problem: str) -> None:
    path = written(tmp_path, GOOD, GOOD | change)
    with pytest.raises(ConfigError) as refused:
        read_published(path)
    assert str(refused.value) == f"{path}:3: {problem}"


def test_a_bad_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, {"artefact": "main", "model": "llama-2-7b"})
    with pytest.raises(ConfigError, match=r":2: a row has 10 cells with a tab between them; fix the line$"):
        read_published(path)
    path.write_text("model\tvalue\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r":1: the columns must be, with tabs between them: artefact, .*, checked$"):
        read_published(path)
    path.write_bytes("\t".join(COLUMNS).encode() + b"\n\xff")
    with pytest.raises(ConfigError, match=r": not UTF-8 text \(byte \d+\); save it as UTF-8$"):
        read_published(path)


def test_only_rows_trained_as_ours_are_counterparts() -> None:
    assert load_task("truthfulqa").objective == "dpo"
    methods = ("base", "iti", "red", "lofit", "lora", "repe_contrast")
    raw = {"models": ["llama-2-7b-chat"], "tasks": {"truthfulqa": None}, "methods": dict.fromkeys(methods)}
    pairs = matching_runs(RunTable(parse_config(raw)))
    assert sorted({(row.method, row.value) for row, _ in pairs}) == [  # lofit at two numbers of heads
        ("base", 31.33), ("base", 33.66), ("base", 34), ("base", 51), ("base", 51.29),
        ("iti", 34.64), ("iti", 40), ("iti", 40.27), ("iti", 51.55), ("iti", 58), ("iti", 59.52),
        ("lofit", 54.5), ("lofit", 74.9), ("lora", 57.78), ("lora", 75.24),
        ("red", 48.6), ("red", 66.98), ("repe_contrast", 50.06),
    ]  # fmt: skip
    assert {row.setting for row, _ in pairs if row.method == "lora"} == {"LoRA, DPO"}


def test_coverage_counts_cells_and_values_by_table() -> None:
    raw = {"models": ["llama-3.2-1b"], "tasks": {"boolq": None, "gsm8k": None}, "methods": {"base": None, "lora": None}}
    arms = {"LoRA": {"method": "lora"}}
    mine = {"kind": "table", "arms": arms}
    table = RunTable(parse_config({**raw, "experiments": {"mine": mine, "layers": None}, "seeds": [1, 2]}))
    assert coverage(table) == {"main": (4, 2), "mine": (2, 0)}
    file = CONFIG / "modern.yaml"
    result = CliRunner().invoke(app, ["expected", "--configfile", str(file)], env={"COLUMNS": "200"})
    assert re.search(r"main +│ +1,040 │ +60 │", result.output)


def test_counterparts_have_the_model_the_method_and_all_tasks() -> None:
    table = RunTable(load_config(CONFIG / "paper.yaml"))
    pairs = matching_runs(table)
    assert len(pairs) == 3 * 2 + 5 + 6  # means of LoFiT and ITI, counts, and TruthfulQA of Llama-2-7B
    for row, fits in pairs:
        assert {fit.model for fit in fits} == {row.model}
        assert set(row.tasks) <= {fit.data.task for fit in fits}
        assert len({fit.k for fit in fits}) == 1
    assert len(matching_runs(RunTable(load_config(CONFIG / "modern.yaml")))) == 2 * 4 * 4 + 2 * 4 + (3 + 2) * 4
    assert not matching_runs(RunTable(load_config(CONFIG / "laptop.yaml")))
