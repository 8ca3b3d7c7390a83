"""The spread over subsets, seeds and items: from runs, and with failures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lofit.config import parse_config
from lofit.errors import ConfigError
from lofit.nodes import evaluate as evaluate_node
from lofit.plan.table import RunTable
from lofit.report.parts import collect_results
from lofit.report.paths import results_path
from lofit.report.variance import variance_table
from tests.fitted import fitted_table, tiny_config, write_outputs

TRAINING = {"epochs": 1, "lr": 0.05}
LOFIT = {"method": "lofit", "heads": {"k": [3], "params": TRAINING}, "params": TRAINING}
SPREAD = {
    "kind": "variance",
    "title": "Spread",
    "arms": {"LoFiT": LOFIT, "LoRA": {"method": "lora", "params": TRAINING}},
}


def test_subsets_and_training_seeds_are_crossed(tmp_path: Path) -> None:
    """Same subset, other training seed: another ranking and another adapter from the same data."""
    methods = {"lofit": {name: value for name, value in LOFIT.items() if name != "method"}}
    made = fitted_table(tiny_config(tmp_path, methods, experiments={"variance": SPREAD}, seeds=[1, 2]))
    plain = RunTable(parse_config(tiny_config(tmp_path, methods, seeds=[1, 2])))
    assert set(plain.fits) < set(made.fits), "the runs of equal seeds are those of the comparison"
    crossed = [arm.fit for arm in made.experiments["variance"] if arm.label == "LoFiT"]
    assert sorted((fit.seed, fit.own_seed) for fit in crossed) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert len(made.data) == 2
    adapters = {(made.folder(fit) / "adapter" / "adapter_model.safetensors").read_bytes() for fit in crossed}
    rankings = {(made.folder(fit.ranking) / "heads.parquet").read_bytes() for fit in crossed if fit.ranking}
    assert len(adapters) == len(rankings) == 4
    for node in made.evaluations.values():
        evaluate_node.run(made, node)
    collect_results(made, "variance")
    write_outputs(made, "variance")
    results = pd.read_parquet(results_path(made, "variance"))
    assert set(zip(results["seed"], results["training_seed"], strict=True)) == {(1, 1), (1, 2), (2, 1), (2, 2)}
    frame = pd.read_csv(made.config.results / "tables" / "variance.csv")
    assert frame["arm"].tolist() == ["LoFiT", "LoRA"]
    assert (frame[["subsets", "training_seeds"]] == 2).all(axis=None)
    assert frame["percent"].between(0, 100).all()
    for suffix in ("md", "tex"):
        assert "Spread" in (made.config.results / "tables" / f"variance.{suffix}").read_text()


def runs(values: np.ndarray) -> Iterator[dict[str, Any]]:
    for fold in range(2):
        for subset, of_subset in enumerate(values):
            for seed, value in enumerate(of_subset):
                yield {
                    "run_id": f"{fold}{subset}{seed}", "model": "m", "task": "t", "method": "lora", "variant": "a",
                    "fold": fold, "seed": subset, "training_seed": seed, "eval_task": "t", "eval_fold": fold,
                    "protocol": "paper", "metric": "acc", "value": value + (0.1 if fold else -0.1), "status": "ok",
                }  # fmt: skip


def test_components_of_known_scores_and_what_failed() -> None:
    values = np.array([[0.5, 0.6], [0.3, 0.4], [0.8, 0.7]])
    rows = pd.DataFrame(runs(values))
    keys = ["run_id", "eval_task", "eval_fold", "protocol", "metric"]
    items = pd.concat([rows[keys].assign(item=name, cluster=name, value=at) for name, at in (("x", 1.0), ("y", 0.0))])
    (record,) = variance_table(rows, items).to_dict("records")
    assert record["percent"] == pytest.approx(55)
    assert record["sd_training"] == pytest.approx(100 * np.sqrt(0.005))
    assert record["sd_subset"] == pytest.approx(100 * np.sqrt(np.var([0.55, 0.35, 0.75], ddof=1) - 0.02 / 3 / 2))
    assert record["sd_items"] == pytest.approx(100 * np.sqrt(4 / 3 * 4 * 0.25 / 16))
    (record,) = variance_table(rows, items.assign(cluster="x")).to_dict("records")
    assert record["sd_items"] == 0, "the two items of a fold are one cluster, and both folds have the same mean"
    lost = rows["run_id"] == "100"
    rows.loc[lost, ["status", "value"]] = ["failed: out of memory", np.nan]
    (record,) = variance_table(rows, items[items["run_id"] != "100"]).to_dict("records")
    assert (record["subsets"], record["note"]) == (2, "failed: out of memory")
    assert record["percent"] == pytest.approx(55)
    rows["status"], rows["value"] = "failed: out of memory", np.nan
    (record,) = variance_table(rows, items.iloc[:0]).to_dict("records")
    assert record["subsets"] == 0
    assert np.isnan(record["percent"])


@pytest.mark.parametrize(
    ("changes", "seeds", "words"),
    [
        ({"arms": {"base": {"method": "base"}}}, [1, 2], "base does not depend on a seed"),
        ({}, [1], "needs two of them"),
        ({"training_seeds": [3, 4, 3]}, [1, 2], "'3' is given twice"),
        ({"kind": "table", "training_seeds": [3, 4]}, [1, 2], "only an experiment of kind variance"),
        ({"arms": {"a": {"method": "lora", "search": {"params": {"lr": [1, 2]}}}}}, [1, 2], "remove the key"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(
    changes: dict[str, Any], seeds: list[int], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_config(tiny_config(tmp_path, {"base": None}, experiments={"variance": SPREAD | changes}, seeds=seeds))
