"""Adapters and checkpoints on disk: what was altered, damaged or is of another model is refused, never half loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from lofit.errors import SourceError
from lofit.files import read_json, write_json
from lofit.interventions import LofitConfig
from lofit.models.adapters import checksums, load_fitted, verify
from lofit.nodes import evaluate as evaluate_node
from tests.checkpoint import save_checkpoint
from tests.fitted import find, fitted_table, tiny_config
from tests.tiny import tiny_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(params=["lofit", "lora"])
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    config: Any = LofitConfig(init_std=0.1, offset=True) if request.param == "lofit" else lora
    get_peft_model(tiny_model("llama", vocab_size=259), config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def refused(base: Path, folder: Path | None) -> str:
    with pytest.raises(SourceError) as caught:
        load_fitted(base, folder, CPU, torch.float32)
    return str(caught.value)


def change(folder: Path, name: str, edit: Callable[[dict[str, torch.Tensor], str], None]) -> None:
    tensors = load_file(folder / name)
    edit(tensors, sorted(tensors)[1])
    save_file(tensors, folder / name, metadata={"format": "pt"})


def poison(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name].view(-1)[0] = float("nan")


def widen(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = torch.cat([tensors[name]] * 2)


def remove(tensors: dict[str, torch.Tensor], name: str) -> None:
    del tensors[name]


def add(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name.replace("layers.0", "layers.7") + ".more"] = tensors[name].clone()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (poison, "values that are not finite"),
        (widen, "does not fit the model"),
        (remove, "the file has nothing"),
        (add, "the model nothing"),
    ],
)
def test_damaged_tensors(
    edit: Callable[[dict[str, torch.Tensor], str], None], message: str, base: Path, adapter: Path
) -> None:
    load_fitted(base, adapter, CPU, torch.float32)
    change(adapter, "adapter_model.safetensors", edit)
    assert message in refused(base, adapter)


@pytest.mark.parametrize("sizes", [{"hidden_size": 16}, {"num_hidden_layers": 1}, {"num_hidden_layers": 5}])
def test_an_adapter_of_another_model(sizes: dict[str, int], adapter: Path, tmp_path: Path) -> None:
    other = save_checkpoint(tmp_path / "other", **sizes)
    assert "does not fit the model" in refused(other, adapter)


def test_pickled_weights_are_refused(base: Path, adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    torch.save(load_file(weights), adapter / "adapter_model.bin")
    weights.unlink()
    assert "pickled weights, which are refused" in refused(base, adapter)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"peft_type": "NOTHING"}', '{"peft_type": 3}', "[" * 3000])
def test_damaged_configuration(text: str, base: Path, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text(text)
    assert str(adapter / "adapter_config.json") in refused(base, adapter)


def test_truncated_weights(base: Path, adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    assert f"{weights} cannot be read" in refused(base, adapter)


def test_a_checkpoint_that_lacks_weights_is_not_filled_with_random_ones(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model")
    change(folder, "model.safetensors", remove)
    assert "weights do not fit config.json (missing_keys" in refused(folder, None)
    (folder / "model.safetensors").write_bytes(b"\xff" * 30)
    assert "no loadable causal language model" in refused(folder, None)


def test_checksums_show_what_was_altered_added_or_lost(adapter: Path) -> None:
    recorded = checksums(adapter)
    assert set(recorded) == {"adapter_config.json", "adapter_model.safetensors"}
    verify(adapter, recorded)
    weights = adapter / "adapter_model.safetensors"
    body = weights.read_bytes()
    weights.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(SourceError, match=r"adapter_model\.safetensors was altered since it was fitted"):
        verify(adapter, recorded)
    weights.unlink()
    with pytest.raises(SourceError, match=r"adapter_model\.safetensors is missing"):
        verify(adapter, recorded)
    weights.write_bytes(body)
    (adapter / "config.json").write_text("{}")
    with pytest.raises(SourceError, match=r"config\.json was added"):
        verify(adapter, recorded)


def test_an_altered_fit_is_not_scored(tmp_path: Path) -> None:
    table = fitted_table(tiny_config(tmp_path, {"lora": {"params": {"epochs": 1, "lr": 0.01}}}))
    node = find(table, "lora")
    weights = table.folder(node) / "adapter" / "adapter_model.safetensors"
    body = bytearray(weights.read_bytes())
    body[-2] ^= 1
    weights.write_bytes(bytes(body))
    scored = table.own_evaluation(node)
    with pytest.raises(SourceError, match="was altered since it was fitted"):
        evaluate_node.run(table, scored)
    assert not table.folder(scored).exists()
    report = read_json(table.folder(node) / "fit.json")
    write_json(table.folder(node) / "fit.json", report | {"sha256": checksums(weights.parent)})
    evaluate_node.run(table, scored)
    assert json.loads((table.folder(scored) / "results.json").read_text())["status"] == "ok"
