"""NaN, infinity and overflow end as a failed row, never as a score and never as a crash."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lm_eval.api.instance import Instance
from safetensors.torch import load_file, save_file

from lofit.activations.last_token import capture, contrast_texts
from lofit.errors import FitError
from lofit.evaluation.finite import CheckedLM
from lofit.evaluation.lm import LocalizedLM
from lofit.evaluation.text import score_text
from lofit.files import read_json, write_json
from lofit.localizers.lofit import LOCALIZER, Params
from lofit.methods import load_method
from lofit.methods.lofit import Params as StepV
from lofit.models.adapters import checksums
from lofit.nodes import evaluate as evaluate_node
from lofit.nodes.status import record_failure
from lofit.plan.table import ALL, RunTable
from lofit.report.parts import collect_results
from lofit.training import trainer
from tests.checkpoint import byte_tokenizer, save_checkpoint
from tests.fitted import find, fitted_table, tiny_config
from tests.sessions import ROWS, fit_context, session
from tests.tiny import tiny_model

SIZES = {"vocab_size": 259, "max_position_embeddings": 256}
TRAINING = {"epochs": 1, "lr": 0.01}


@pytest.mark.parametrize("method", ["lora", "full", "jola", "loreft", "bitfit", "red"])
def test_a_rate_beyond_float32_fails_the_fit(method: str) -> None:
    found = load_method(method)
    values = {"lr": 2e38, "epochs": 2, "batch_size": 4}
    assert found.fit is not None
    with record_failure() as report:
        found.fit(fit_context(session()), found.Params.model_validate(values))
    assert report["status"] == "failed"
    assert "lower the learning rate" in report["reason"]


def test_a_rate_beyond_float32_fails_the_localization() -> None:
    with record_failure() as report:
        LOCALIZER.score(fit_context(session()), Params(lr=2e38, epochs=2, batch_size=4))
    assert report["status"] == "failed"
    assert "lower the learning rate" in report["reason"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_not_stepped_on(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    total = trainer.SftObjective.total

    def steep(self: Any, forward: Any, rows: Any) -> torch.Tensor:
        loss = total(self, forward, rows)
        if loss.requires_grad:
            loss.register_hook(lambda gradient: gradient * value)
        return loss

    monkeypatch.setattr(trainer.SftObjective, "total", steep)
    method = load_method("lora")
    assert method.fit is not None
    with pytest.raises(FitError, match=r"norm of the gradient is (nan|inf) at step 1 of 2; lower the learning rate"):
        method.fit(fit_context(session()), method.Params(lr=0.01, epochs=1, batch_size=4))


@pytest.mark.parametrize("key", ["lr", "weight_decay", "l1", "max_grad_norm", "beta"])
def test_infinite_hyperparameters_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="finite number"):
        StepV(**({"lr": 0.1} | {key: math.inf}))


def damaged(value: float) -> Any:
    """A model that gives one token of the vocabulary no probability that is a number."""
    model = tiny_model("llama", **SIZES)
    model.lm_head.weight.data[7] = value
    return model


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("kind", [LocalizedLM, CheckedLM])
def test_neither_likelihoods_nor_texts_are_made_of_nan(kind: type[CheckedLM], value: float) -> None:
    lm = kind(pretrained=damaged(value), tokenizer=byte_tokenizer(), batch_size=2, backend="causal")
    pairs = [("Q: who?\nA:", " me"), ("Q: who?\nA:", " you")]
    with pytest.raises(FitError, match="predicts NaN or infinity"):
        lm._loglikelihood_tokens([(pair, *lm._encode_pair(*pair)) for pair in pairs], disable_tqdm=True)
    asked = [Instance("generate_until", {}, ("1 2 3", {"until": ["\n"], "max_gen_toks": 3, "do_sample": False}), 0)]
    with pytest.raises(FitError, match="predicts NaN or infinity"):
        lm.generate_until(asked, disable_tqdm=True)


@pytest.mark.parametrize("broken", ["model", "base"])
def test_plain_text_is_not_scored_with_nan(broken: str) -> None:
    sound = tiny_model("llama", **SIZES)
    model, base = (damaged(math.nan), sound) if broken == "model" else (sound, damaged(math.nan))
    with pytest.raises(FitError, match="predicts NaN or infinity"):
        score_text(model, base, byte_tokenizer(), [{"id": "a", "text": "The quick brown fox."}], "plain")


def test_activations_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    opened = session()
    opened.model.model.layers[1].mlp.down_proj.weight.data[0, 0] = math.inf
    with pytest.raises(FitError, match="activations of layer 1 are not finite"):
        capture(opened, contrast_texts({"train": ROWS}), tmp_path / "heads.npy", tmp_path / "blocks.npy")


def evaluated(table: RunTable) -> pd.DataFrame:
    for node in table.evaluations.values():
        evaluate_node.run(table, node)
    collect_results(table, ALL)
    return pd.read_parquet(table.config.results / "results.parquet").set_index("method")


def test_damaged_weights_of_the_base_fail_every_run_and_nothing_crashes(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint")
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0] = math.nan
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    methods: dict[str, Any] = {
        "base": None,
        "fewshot": {"params": {"shots": 2}},
        "lofit": {"heads": {"k": [3], "params": TRAINING}, "params": TRAINING},
        "iti": {"heads": {"k": [2]}},
        "repe": None,
        "full": {"params": TRAINING},
    }
    results = evaluated(fitted_table(tiny_config(tmp_path, methods)))
    assert sorted(results.index) == sorted(methods)
    assert results["metric"].isna().all()
    reasons = results["status"].to_dict()
    assert reasons["base"].startswith("failed: the model predicts NaN or infinity")
    assert reasons["iti"].startswith("failed: activations of layer 1 are not finite")
    assert reasons["repe"] == reasons["iti"]
    assert reasons["full"].startswith("failed: validation loss is nan")


def test_an_adapter_that_overflows_has_no_score_and_the_base_keeps_its_own(tmp_path: Path) -> None:
    table = fitted_table(tiny_config(tmp_path, {"base": None, "lora": {"params": TRAINING}}))
    run = table.folder(find(table, "lora"))
    file = run / "adapter" / "adapter_model.safetensors"
    save_file({name: torch.full_like(value, 1e30) for name, value in load_file(file).items()}, file)
    write_json(run / "fit.json", read_json(run / "fit.json") | {"sha256": checksums(run / "adapter")})
    results = evaluated(table)
    assert results["status"].to_dict()["base"] == "ok"
    assert results["status"].to_dict()["lora"].startswith("failed: the model predicts NaN or infinity")
    node = table.own_evaluation(find(table, "lora"))
    assert read_json(table.folder(node) / "results.json")["metrics"] == {}
