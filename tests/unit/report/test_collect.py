from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from lofit.errors import ReportError
from lofit.report.collect import SCHEMA, EvaluatedRun, collect, read_results
from lofit.report.items import collect_items

# fmt: off
CONTRACT = [
    "run_id", "model", "task", "fold", "method", "selector", "head_task", "n_heads", "tried", "extended", "chosen",
    "outermost", "n_train",
    "seed", "training_seed", "eval_task", "eval_fold", "protocol", "metric", "value", "stderr", "n_items",
    "n_truncated", "n_ties", "n_unreachable", "status",
    "trained_params",
    "stored_params", "inference_params", "activations_seconds", "localize_seconds", "fit_seconds", "peak_memory_bytes",
    "dtype",
    "backend",
]
# fmt: on
OK = {
    "status": "ok",
    "reason": None,
    "n_items": 40,
    "metrics": {"exact_match": {"value": 0.1 + 0.2, "stderr": 0.05}, "f1": {"value": 0.5, "stderr": None}},
}
FIT = {
    "status": "ok",
    "reason": None,
    "trained_params": 6144,
    "stored_params": 6160,
    "inference_params": 0,
    "seconds": 12.5,
    "peak_memory_bytes": 3_000_000_000,
}


def write(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def lofit_run(root: Path, name: str = "a1", evaluation: object = OK, fit: object = FIT) -> EvaluatedRun:
    return EvaluatedRun(
        run_id=name, model="tiny", task="clutrr", fold=0, method="lofit", selector="lofit", head_task="clutrr",
        n_heads=8, n_train=100, seed=1, training_seed=1, eval_task="clutrr", eval_fold=0, protocol="paper",
        eval_path=write(root / name / "eval" / "results.json", evaluation).parent,
        fit_path=write(root / name / "fit.json", fit),
        localize_path=write(root / name / "localize.json", {"status": "ok", "seconds": 3.0}),
    )  # fmt: skip


def zero_shot(root: Path) -> EvaluatedRun:
    return replace(
        lofit_run(root, "zero"), method="zero_shot", selector=None, head_task=None, n_heads=None,
        fit_path=None, localize_path=None,
    )  # fmt: skip


def test_one_row_per_metric_with_costs(tmp_path: Path) -> None:
    frame = collect([lofit_run(tmp_path)], tmp_path / "results.parquet")
    assert list(frame["metric"]) == ["exact_match", "f1"]
    first = frame.iloc[0]
    assert first["value"] == 0.1 + 0.2
    assert first["stderr"] == 0.05
    assert math.isnan(frame["stderr"].iloc[1])
    assert (first["n_items"], first["trained_params"], first["stored_params"], first["inference_params"]) == (
        40, 6144, 6160, 0,
    )  # fmt: skip
    assert (first["localize_seconds"], first["fit_seconds"], first["peak_memory_bytes"]) == (3.0, 12.5, 3_000_000_000)
    assert set(frame["status"]) == {"ok"}


def test_a_metric_of_some_items_says_how_many(tmp_path: Path) -> None:
    metrics = {**OK["metrics"], "kl": {"value": 0.5, "stderr": 0.1, "n_items": 16}}  # type: ignore[dict-item]
    frame = collect([lofit_run(tmp_path, evaluation=OK | {"metrics": metrics})], tmp_path / "results.parquet")
    assert frame.set_index("metric")["n_items"].to_dict() == {"exact_match": 40, "f1": 40, "kl": 16}


def test_file_has_the_fixed_schema_even_when_columns_are_empty(tmp_path: Path) -> None:
    collect([zero_shot(tmp_path)], tmp_path / "zero.parquet")
    collect([lofit_run(tmp_path), zero_shot(tmp_path)], tmp_path / "both.parquet")
    for name in ("zero", "both"):
        assert pq.read_schema(tmp_path / f"{name}.parquet").remove_metadata().equals(SCHEMA)
    assert SCHEMA.names == CONTRACT
    frame = read_results(tmp_path / "both.parquet")
    assert frame["n_heads"].dtype == "Int64"
    assert frame["n_heads"].isna().tolist() == [False, False, True, True]
    assert pd.isna(frame["trained_params"].iloc[3])


def test_no_runs_give_an_empty_table(tmp_path: Path) -> None:
    assert collect([], tmp_path / "results.parquet").empty
    assert pq.read_schema(tmp_path / "results.parquet").names == CONTRACT


def test_csv_and_parquet_hold_the_same(tmp_path: Path) -> None:
    failed = {"status": "failed", "reason": 'out of memory, "CUDA"', "n_items": 0, "metrics": {}}
    runs = [lofit_run(tmp_path), zero_shot(tmp_path), lofit_run(tmp_path, "bad", failed)]
    frame = collect(runs, tmp_path / "results.parquet")
    pd.testing.assert_frame_equal(read_results(tmp_path / "results.parquet"), frame)
    text = pd.read_csv(tmp_path / "results.csv", dtype=dict(frame.dtypes), float_precision="round_trip")
    pd.testing.assert_frame_equal(text, frame)
    assert sorted(path.name for path in tmp_path.glob("*results*")) == ["results.csv", "results.parquet"]


@pytest.mark.parametrize("node", ["eval", "fit"])
def test_failed_run_is_one_row_with_its_reason(tmp_path: Path, node: str) -> None:
    failed = {"status": "failed", "reason": "loss diverged\nat step 3", "n_items": None, "metrics": {}}
    run = lofit_run(tmp_path, evaluation=failed if node == "eval" else OK, fit=failed if node == "fit" else FIT)
    frame = collect([run], tmp_path / "results.parquet")
    assert len(frame) == 1
    assert frame["status"].iloc[0] == "failed: loss diverged at step 3"
    assert pd.isna(frame["metric"].iloc[0])
    assert math.isnan(frame["value"].iloc[0])


def test_the_first_failure_is_the_reason_shown(tmp_path: Path) -> None:
    fit = {"status": "failed", "reason": "out of memory"}
    evaluation = {"status": "failed", "reason": "the fit failed"}
    frame = collect([lofit_run(tmp_path, evaluation=evaluation, fit=fit)], tmp_path / "results.parquet")
    assert frame["status"].tolist() == ["failed: out of memory"]


@pytest.mark.parametrize("name", ["eval/results.json", "fit.json", "localize.json"])
def test_absent_file_is_named(tmp_path: Path, name: str) -> None:
    run = lofit_run(tmp_path)
    (tmp_path / "a1" / name).unlink()
    with pytest.raises(ReportError, match=f"a1/{name} does not exist"):
        collect([run], tmp_path / "results.parquet")
    assert not (tmp_path / "results.parquet").exists()


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ([1], "must hold a JSON object"),
        ({"status": "done"}, '"status" must be'),
        (OK | {"metrics": {}}, '"metrics" is empty'),
        (OK | {"metrics": {"f1": {"value": None}}}, "metric f1 has no finite value"),
        (OK | {"metrics": {"f1": {"value": math.nan}}}, "metric f1 has no finite value"),
        (OK | {"metrics": {"f1": {"value": "0.5"}}}, '"value" must be a number or null'),
    ],
)
def test_malformed_results_are_refused(tmp_path: Path, evaluation: object, message: str) -> None:
    with pytest.raises(ReportError, match=message):
        collect([lofit_run(tmp_path, evaluation=evaluation)], tmp_path / "results.parquet")


def test_broken_json_is_refused(tmp_path: Path) -> None:
    run = lofit_run(tmp_path)
    (run.eval_path / "results.json").write_text("{", encoding="utf-8")
    with pytest.raises(ReportError, match="is not valid JSON"):
        collect([run], tmp_path / "results.parquet")


def test_a_run_listed_twice_is_refused(tmp_path: Path) -> None:
    run = lofit_run(tmp_path)
    with pytest.raises(ReportError, match="a1 is listed twice"):
        collect([run, run], tmp_path / "results.parquet")


def test_target_must_be_parquet(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"must end in \.parquet"):
        collect([], tmp_path / "results.csv")


def test_reading_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no results at"):
        read_results(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello", encoding="utf-8")
    with pytest.raises(ReportError, match="not a parquet file"):
        read_results(tmp_path / "text.parquet")
    pd.DataFrame({"run_id": ["a"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ReportError, match="lacks the columns model, task"):
        read_results(tmp_path / "other.parquet")


def test_two_precisions_of_one_model_do_not_share_a_table(tmp_path: Path) -> None:
    runs = [lofit_run(tmp_path, name, OK | {"dtype": name}) for name in ("float32", "bfloat16")]
    with pytest.raises(ReportError, match="tiny was run in bfloat16 and float32, which must not share a table"):
        collect(runs, tmp_path / "results.parquet")
    frame = collect(runs[:1], tmp_path / "results.parquet")
    assert set(frame["dtype"]) == {"float32"}


def test_failed_activations_are_the_reason_of_all_that_follows(tmp_path: Path) -> None:
    failed = write(tmp_path / "activations.json", {"status": "failed", "reason": "out of memory"})
    run = replace(lofit_run(tmp_path, fit={"status": "failed", "reason": "later"}), activations_paths=(failed,))
    assert collect([run], tmp_path / "results.parquet")["status"].tolist() == ["failed: out of memory"]


def test_items_that_share_a_context_share_a_cluster(tmp_path: Path) -> None:
    runs = []
    for name in ("with", "without"):
        run = lofit_run(tmp_path, name)
        samples = [{"doc": {"id": f"q{i}"}, "doc_id": i, "task": "t", "exact_match": 1.0} for i in range(3)]
        (run.eval_path / "results.json").write_text(json.dumps(OK | {"metrics": {"exact_match": {"value": 1.0}}}))
        (run.eval_path / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        runs.append(run)
    items = tmp_path / "test.jsonl"
    rows = [{"passage": "one", "stratum": "seen"}, {"passage": "other"}, {"passage": "One "}]
    items.write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs[0] = replace(runs[0], items_path=items, cluster_field="passage")
    collect_items(runs, tmp_path / "items.parquet")
    found = pd.read_parquet(tmp_path / "items.parquet")
    assert found["stratum"].dropna().to_dict() == {0: "seen"}
    clusters = found.groupby("run_id")["cluster"].agg(list)
    assert clusters["with"][0] == clusters["with"][2] != clusters["with"][1]
    assert clusters["without"] == ["q0", "q1", "q2"]


def test_only_the_product_of_two_shares_has_no_value_per_item(tmp_path: Path) -> None:
    run = lofit_run(tmp_path)
    samples = [{"doc": {"id": f"q{i}"}, "doc_id": i, "task": "t", "true": float(i)} for i in range(2)]
    (run.eval_path / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    metrics = {"true": {"value": 0.5}, "true_x_informative": {"value": 0.25}}
    (run.eval_path / "results.json").write_text(json.dumps(OK | {"metrics": metrics}))
    collect_items([run], tmp_path / "items.parquet")
    items = pd.read_parquet(tmp_path / "items.parquet")
    assert items[["item", "metric", "value"]].values.tolist() == [["q0", "true", 0.0], ["q1", "true", 1.0]]
    assert set(collect([run], tmp_path / "results.parquet")["metric"]) == set(metrics)
    (run.eval_path / "results.json").write_text(json.dumps(OK | {"metrics": metrics | {"informative": {"value": 0.5}}}))
    with pytest.raises(ReportError, match="holds no metric informative"):
        collect_items([run], tmp_path / "items.parquet")
