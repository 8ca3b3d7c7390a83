"""The same scores from every backend, and a column that says which."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from peft import get_peft_model

from lofit.config import parse_config
from lofit.errors import ConfigError, EditError, ReportError
from lofit.evaluation import backends
from lofit.interventions import LofitConfig
from lofit.nodes import evaluate as evaluate_node
from lofit.plan.table import RunTable
from lofit.report.collect import collect
from lofit.report.parts import evaluated_run
from tests.checkpoint import byte_tokenizer
from tests.fitted import find, fitted_table, tiny_config
from tests.tiny import tiny_model
from tests.unit.packing.test_devices import with_hooks

TRAINING = {"epochs": 1, "lr": 0.05}
METHODS: dict[str, Any] = {
    "base": None,
    "lofit": {"heads": {"k": [3], "params": TRAINING}, "params": TRAINING},
    "iti": {"heads": {"k": [3]}, "params": {"positions": "answer"}},
    "full": {"params": TRAINING},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("backends")
    fitted_table(tiny_config(made, METHODS))
    return made


class StandIn(HFLM):
    """Takes what lm-eval's ``vllm`` takes, and reads the checkpoint as a stranger would."""

    def __init__(self, pretrained: str, dtype: str, batch_size: str, tensor_parallel_size: int = 1) -> None:
        assert batch_size == "auto" and not list(Path(pretrained).glob("adapter*"))
        super().__init__(pretrained=pretrained, dtype=dtype, batch_size=2, device="cpu", backend="causal")


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec
    monkeypatch.setattr(
        backends.importlib.util, "find_spec", lambda name, *rest: object() if name == "vllm" else spec(name, *rest)
    )
    monkeypatch.setattr(backends, "get_model", {"vllm": StandIn}.__getitem__)


def scored(folder: Path, backend: str, method: str) -> tuple[RunTable, Any, dict[str, Any], list[Any]]:
    table = RunTable(parse_config(tiny_config(folder, METHODS, backend=backend)))
    node = table.own_evaluation(find(table, method))
    evaluate_node.run(table, node)
    results = json.loads((table.folder(node) / "results.json").read_text())
    lines = (table.folder(node) / "samples.jsonl").read_text().splitlines()
    return table, node, results, [json.loads(line)["resps"] for line in lines]


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("method", ["base", "lofit", "full"])
def test_every_backend_gives_the_same_answers_in_a_place_of_its_own(folder: Path, method: str) -> None:
    found = {backend: scored(folder, backend, method) for backend in ("packed", "hf", "vllm")}
    assert len({table.folder(node) for table, node, _, _ in found.values()}) == 3
    for backend, (_, _, results, said) in found.items():
        assert results["backend"] == results["run"]["backend"] == backend
        assert results["metrics"] == found["packed"][2]["metrics"]
        assert said == found["packed"][3]


def test_backends_are_a_column_and_never_share_a_table(folder: Path) -> None:
    ours, stock = (scored(folder, *which) for which in (("packed", "base"), ("hf", "lofit")))
    runs = [evaluated_run(table, node) for table, node, _, _ in (ours, stock)]
    assert set(collect(runs[1:], folder / "results.parquet")["backend"]) == {"hf"}
    with pytest.raises(ReportError, match="hf and packed, which must not share a table"):
        collect(runs, folder / "results.parquet")


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(("backend", "reason"), [("hf", "set backend to packed"), ("vllm", "cannot be merged")])
def test_an_edit_that_a_backend_cannot_apply_is_a_failed_node(folder: Path, backend: str, reason: str) -> None:
    *_, results, _ = scored(folder, backend, "iti")
    assert results["status"] == "failed"
    assert reason in results["reason"]


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(("family", "place"), [("llama", True), ("qwen2", True), ("gemma", False), ("qwen3", False)])
def test_a_bias_that_vllm_would_pass_over_is_refused(family: str, place: bool) -> None:
    """It heeds the switch that adds biases for Llama alone, which Qwen2 and Mistral are written as."""
    config = LofitConfig(heads=[(0, 1)], scale=False, offset=True, init_std=1.0)
    model = get_peft_model(tiny_model(family, vocab_size=259), config)
    with backends.model_class("vllm") as make:
        if place:
            make(pretrained=model, tokenizer=byte_tokenizer(), batch_size=1)
            return
        with pytest.raises(EditError, match=r"vllm has no place for this edit's bias in \w+ForCausalLM; set backend"):
            make(pretrained=model, tokenizer=byte_tokenizer(), batch_size=1)


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_the_model_has_left_the_gpus_when_the_engine_starts_on_all_of_them(
    gpus: int, edited: bool, vllm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []
    move = torch.nn.Module.to

    def to(module: torch.nn.Module, *where: Any, **how: Any) -> Any:
        events.append(("moved", *where, any(hasattr(part, "_hf_hook") for part in module.modules())))
        return move(module, *where, **how)

    class Engine(StandIn):
        def __init__(self, **arguments: Any) -> None:
            events.append(("started", arguments.get("tensor_parallel_size", 1)))
            super().__init__(**arguments)

    model = with_hooks(tiny_model("llama", vocab_size=259))
    if edited:
        model = get_peft_model(model, LofitConfig(heads=[(0, 1)], scale=False, offset=True, init_std=1.0))
    monkeypatch.setattr(torch.nn.Module, "to", to)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: events.append("emptied"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(backends, "get_model", {"vllm": Engine}.__getitem__)
    with backends.model_class("vllm") as make:
        make(pretrained=model, tokenizer=byte_tokenizer(), batch_size=1)
    assert events[: events.index("emptied") + 2][-3:] == [("moved", "cpu", False), "emptied", ("started", max(1, gpus))]


def test_vllm_that_is_not_installed_is_one_line(folder: Path) -> None:
    with pytest.raises(ConfigError, match="pip install"):
        scored(folder, "vllm", "lofit")
