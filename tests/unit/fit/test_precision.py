"""A quantised base: what is trained on it, and what its results are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lofit.errors import FitError
from lofit.files import read_json
from lofit.models.loading import load_model, pick_dtype, precision_of
from lofit.nodes import evaluate as evaluate_node
from lofit.nodes.export import export
from tests.checkpoint import save_checkpoint
from tests.fitted import find, fitted_table, tiny_config

pytest.importorskip("bitsandbytes")
# Blocks of 64 weights share a scale.
SIZES = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
CPU = torch.device("cpu")
TRAINING = {"epochs": 2, "lr": 0.05}


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_a_base_is_loaded_in_few_bits_and_stays_frozen(name: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", **SIZES)
    model, plain = load_model(folder, CPU, pick_dtype(name, CPU)), load_model(folder, CPU, torch.float32)
    layer = model.get_submodule("model.layers.0.self_attn.o_proj")
    assert layer.weight.element_size() == 1
    assert precision_of(model) == name
    assert not any(weight.requires_grad for weight in model.parameters())
    tokens = torch.arange(5, 25)[None]
    with torch.no_grad():
        difference = (model(tokens).logits - plain(tokens).logits).abs().max()
    assert 0 < difference < plain(tokens).logits.abs().max()


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_localized_training_and_scoring_run_on_it(name: str, tmp_path: Path) -> None:
    methods: dict[str, Any] = {
        "lofit": {"heads": {"k": [3], "params": TRAINING}, "params": TRAINING},
        "lora": {"params": TRAINING},
    }
    save_checkpoint(tmp_path / "checkpoint", **SIZES)
    table = fitted_table(tiny_config(tmp_path, methods, dtype=name))
    for method in methods:
        node = find(table, method)
        report = read_json(table.folder(node) / "fit.json")
        assert (report["status"], report["dtype"]) == ("ok", name)
        assert report["validation_loss"][-1] < report["validation_loss"][0]
        evaluate_node.run(table, table.own_evaluation(node))
        assert read_json(table.folder(table.own_evaluation(node)) / "results.json")["dtype"] == name
        export(table, node, tmp_path / method, "peft")
        with pytest.raises(FitError, match="use --format peft"):
            export(table, node, tmp_path / f"{method}-hf", "hf")
        assert not (tmp_path / f"{method}-hf").exists()
