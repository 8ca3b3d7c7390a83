"""The fast forward pass gives what the plain one gives, in losses, gradients and whole trainings."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lofit.interventions import LofitConfig, LoreftConfig
from lofit.methods import load_method
from lofit.models.encoding import Example, Row
from lofit.models.session import Session
from lofit.spec.hyperparameters import ComputeParams, TrainParams
from lofit.training import forward as forwards
from lofit.training.cached_prefix import decoder_layers, first_trained_layer
from lofit.training.forward import Forward
from lofit.training.trainer import train
from tests.sessions import PAIRS as DPO
from tests.sessions import fit_context, session
from tests.tiny import FAMILIES, tiny_model

ROWS: list[Row] = [
    (Example((5, 6, 7, 8, 9, 2), 4),),
    (Example((11, 12, 2), 1),),
    (Example((21, 22, 23, 24, 25, 26, 27, 2), 6),),
    (Example((31, 32, 33, 2), 3),),
]
PAIRS: list[Row] = [
    (Example((5, 6, 7, 8, 9, 2), 4), Example((5, 6, 7, 8, 10, 11, 2), 4)),
    (Example((11, 12, 13, 2), 2), Example((11, 12, 14, 2), 2)),
    (Example((5, 6, 7, 8, 9, 2), 4), Example((15, 2), 1)),
]
PLAIN = ComputeParams(prefix_memory_gb=0, prefix_disk_gb=0)


def offsets(*heads: tuple[int, int], **fields: Any) -> LofitConfig:
    return LofitConfig(heads=list(heads), scale=False, offset=True, init_std=0.5, **fields)


def tuned(family: str, config: Any, **changes: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return get_peft_model(tiny_model(family, **changes), config)


def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwards, "longest_packable", lambda model: 0)


def gradients(forward: Forward, rows: list[Row]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    found = forward.log_probs(rows)
    found.square().sum().backward()
    trained = [p for p in forward.model.parameters() if p.requires_grad]
    grads = [p.grad.clone() for p in trained]
    forward.model.zero_grad()
    return found.detach(), grads


@pytest.mark.parametrize("rows", [ROWS, PAIRS], ids=["sft", "dpo"])
@pytest.mark.parametrize("family", [*FAMILIES, "starcoder2", "bloom", "openai-gpt"])
def test_log_probs_and_gradients_equal_the_plain_ones(
    family: str, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tuned(family, offsets((1, 0), (1, 2), (2, 3)))
    fast = Forward(model, rows, 0)
    assert fast.packs == (family not in ("bloom", "openai-gpt"))
    fast.keep_prefix(rows, 2, memory=1e9, disk=0)
    assert fast.store is not None
    found = gradients(fast, rows)
    plainly(monkeypatch)
    expected = gradients(Forward(model, rows, 0), rows)
    assert not Forward(model, rows, 0).packs
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_kept_layers_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tuned("llama", offsets((2, 3)))
    forward = Forward(model, ROWS, 0)
    forward.keep_prefix([*ROWS, *ROWS], 3, memory=1e9, disk=0)
    calls: list[int] = []
    for number, layer in enumerate(decoder_layers(model)):  # type: ignore[arg-type]
        layer.mlp.register_forward_hook(lambda *args, number=number: calls.append(number))
    expected = forward.log_probs(ROWS)
    assert calls == [2]
    assert torch.allclose(forward.log_probs(ROWS[2:]), expected[2:], rtol=1e-5)
    forward.store = None
    calls.clear()
    assert torch.allclose(forward.log_probs(ROWS), expected, rtol=1e-5)
    assert calls == [0, 1, 2]


def test_the_store_stays_within_its_budget(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """6 + 3 + 8 + 4 tokens, less the last one of each, of 32 numbers of 4 bytes."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    needed = (5 + 2 + 7 + 3) * 32 * 4
    forward = Forward(tuned("llama", offsets((2, 3))), ROWS, 0)
    expected = forward.log_probs(ROWS)
    forward.keep_prefix(ROWS, 2, memory=needed - 1, disk=needed - 1)
    assert forward.store is None
    for memory, disk in ((needed, 0), (0, needed)):
        forward.store = None
        forward.keep_prefix(ROWS, 2, memory=memory, disk=disk)
        assert forward.store is not None
        assert torch.allclose(forward.log_probs(ROWS), expected, rtol=1e-5)
    assert not list(tmp_path.iterdir()), "the file has no name"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_runs_where_its_output_is_read(family: str) -> None:
    model = tuned(family, offsets((0, 0)))
    forward = Forward(model, ROWS, 0)
    assert forward.tail is not None
    fused = family in ("gpt2", "gpt_neox")  # queries, keys and values are one map, all of which is needed
    assert len(forward.tail.modules) == 3 - fused - (family == "opt")  # whose feed-forward network is no module
    left: dict[int, torch.Tensor] = {}
    for number, module in enumerate(forward.tail.modules):
        module.register_forward_hook(
            lambda module, inputs, output, number=number: left.update({number: output.detach()[:, :-2]})
        )
    forward.log_probs(ROWS[:1])  # 5 tokens, 2 of them scored
    assert [part.shape[1] for part in left.values()] == [3] * len(forward.tail.modules)
    assert all((part == 0).all() for part in left.values())


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "bloom"])
@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_whole_trainings_equal_plain_ones(family: str, objective: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"train": DPO[:5], "validation": DPO[5:]} if objective == "dpo" else {}
    params = TrainParams(lr=1e-2, epochs=2, batch_size=3)
    config = LofitConfig(heads=[(1, 3), (2, 1)], scale=False, offset=True, init_std=1e-3, init_seed=3)
    fast = train(session(family, objective=objective, **rows), config, params, "t").record
    plainly(monkeypatch)
    slow = train(session(family, objective=objective, compute=PLAIN, **rows), config, params, "t").record
    assert fast["train_loss"] == pytest.approx(slow["train_loss"], abs=1e-4)
    assert fast["validation_loss"] == pytest.approx(slow["validation_loss"], abs=1e-4)


@pytest.mark.parametrize("method", ["lora", "bitfit", "loreft", "answer", "all"])
def test_other_adapters_train_as_they_would_plainly(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    configs: dict[str, Any] = {
        "lora": lambda: LoraConfig(target_modules=["q_proj", "v_proj", "down_proj"]),
        "bitfit": lambda: LofitConfig(site="ffn", scale=True, offset=True, init_std=1e-3),
        "loreft": lambda: LoreftConfig(rank=2, prefix=1, suffix=1),
        "answer": lambda: LofitConfig(heads=[(1, 2)], positions="answer", scale=False, offset=True),
        "all": lambda: None,
    }
    params = TrainParams(lr=1e-3, epochs=1, batch_size=4)
    fast = train(session(), configs[method](), params, "t").record["train_loss"]
    plainly(monkeypatch)
    assert train(session(compute=PLAIN), configs[method](), params, "t").record["train_loss"] == pytest.approx(
        fast, abs=1e-4
    )


@pytest.mark.parametrize("compute", [{"micro_batch": 1}, {"micro_batch": 2, "checkpointing": True}], ids=str)
@pytest.mark.parametrize("method", ["lofit", "loreft", "jola"])
def test_economies_of_memory_change_nothing(method: str, compute: dict[str, Any]) -> None:
    def losses(opened: Session) -> Any:
        if method == "jola":
            jola = load_method("jola")
            assert jola.fit is not None
            return jola.fit(fit_context(opened), jola.Params(lr=0.05, epochs=2, batch_size=3)).record["train_loss"]
        config = LoreftConfig(rank=2, prefix=1, suffix=1) if method == "loreft" else offsets((0, 1), (2, 3))
        return train(opened, config, TrainParams(lr=1e-2, epochs=2, batch_size=3, l1=1e-3), "t").record["train_loss"]

    expected = losses(session())
    assert losses(session(compute=ComputeParams(**compute))) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_compiled_layers_compute_the_same() -> None:
    params = TrainParams(lr=1e-2, epochs=2, batch_size=3)
    expected = train(session(), offsets((0, 1), (2, 3)), params, "t").record["train_loss"]
    found = train(session(compute=ComputeParams(compile=True)), offsets((0, 1), (2, 3)), params, "t").record
    assert found["train_loss"] == pytest.approx(expected, abs=1e-4)


def test_checkpointed_layers_are_computed_twice() -> None:
    opened = session(compute=ComputeParams(checkpointing=True))
    calls = [0, 0, 0]
    for number, layer in enumerate(decoder_layers(opened.model)):  # type: ignore[arg-type]
        attention = layer.self_attn
        attention.register_forward_hook(
            lambda *args, number=number: calls.__setitem__(number, calls[number] + torch.is_grad_enabled())
        )
    train(opened, offsets((0, 1)), TrainParams(lr=1e-2, epochs=1, batch_size=8), "t")
    assert calls == [2, 2, 1]


@pytest.mark.parametrize(
    ("config", "first"),
    [
        (offsets((2, 0)), 2),
        (offsets((2, 0), (1, 3)), 1),
        (LofitConfig(scale=True), 0),
        (LoraConfig(target_modules=["q_proj"], layers_to_transform=[2]), 2),
        (LoraConfig(target_modules=["embed_tokens", "q_proj"]), 0),
        (LoreftConfig(rank=2, layers=[2]), 2),
    ],
)
def test_the_first_trained_layer(config: Any, first: int) -> None:
    assert first_trained_layer(tuned("llama", config)) == first
    assert first_trained_layer(tiny_model("llama").requires_grad_(True)) == 0
