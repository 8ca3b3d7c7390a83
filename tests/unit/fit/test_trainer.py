"""The training loop: what it minimises, what it refuses, and that it repeats itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lofit.errors import EditError, FitError, TaskError
from lofit.fit import trainer
from lofit.fit.session import Session
from lofit.fit.trainer import train
from lofit.interventions import LofitConfig, head_norms
from lofit.localize.lofit import Params as StepA
from lofit.methods import load_method
from lofit.methods.lofit import Params as StepV
from tests.checkpoint import byte_tokenizer
from tests.tiny import tiny_model

ROWS = [{"id": str(i), "prompt": f"{i}+{i}=", "target": f" {2 * i}"} for i in range(12)]
PAIRS = [{"id": str(i), "train_prompt": f"{i}+{i}=", "chosen": f" {2 * i}", "rejected": " no"} for i in range(6)]
HEADS = [(1, 0), (2, 3)]


def session(family: str = "llama", **changes: Any) -> Session:
    model = tiny_model(family, vocab_size=259).requires_grad_(False)
    fields: dict[str, Any] = {
        "objective": "sft",
        "train": ROWS[:8],
        "validation": ROWS[8:],
        "seed": 3,
        "progress": False,
    }
    return Session(model=model, tokenizer=byte_tokenizer(), **(fields | changes))


def step_v(**changes: Any) -> StepV:
    return StepV(**({"lr": 0.05, "epochs": 4, "batch_size": 4} | changes))


def offsets(seed: int = 3) -> LofitConfig:
    return LofitConfig(heads=HEADS, scale=False, offset=True, init_std=1e-3, init_seed=seed)


@pytest.mark.parametrize("family", ["llama", "gemma", "qwen2", "gpt2"])
def test_training_lowers_the_loss_and_leaves_the_base_alone(family: str) -> None:
    opened = session(family)
    before = {name: value.clone() for name, value in opened.model.state_dict().items()}
    fitted = train(opened, offsets(), step_v(epochs=15), "t")
    losses = fitted.record["train_loss"]
    assert len(losses) == fitted.record["steps"] == 30
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert len(fitted.record["validation_loss"]) == 16
    after = {
        name.replace(".base_layer", ""): value for name, value in fitted.model.base_model.model.state_dict().items()
    }
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_dpo_training_raises_the_margin() -> None:
    fitted = train(session(objective="dpo", train=PAIRS, validation=PAIRS[:2]), offsets(), step_v(epochs=10), "t")
    assert fitted.record["validation_loss"][0] == pytest.approx(np.log(2), abs=0.02)  # the initial offsets are tiny
    assert fitted.record["validation_loss"][-1] < 0.6


def test_same_seed_same_adapter_and_other_seed_another() -> None:
    def weights(seed: int) -> torch.Tensor:
        fitted = train(session(seed=seed), offsets(seed), step_v(), "t")
        return torch.cat([p.detach().flatten() for p in fitted.model.parameters() if p.requires_grad])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_lora_initialisation_depends_on_the_seed_alone() -> None:
    method = load_method("lora")
    params = method.Params(lr=0.01, epochs=1)

    def weights(global_seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        assert method.adapter is not None
        fitted = train(session(), method.adapter(params, None, 3), params, "t")
        return torch.cat([p.detach().flatten() for p in fitted.model.parameters() if p.requires_grad])

    assert torch.equal(weights(1), weights(2))


def test_penalty_is_the_sum_of_absolute_values_and_not_in_the_validation_loss() -> None:
    config = LofitConfig(heads=None, scale=True, offset=False, init_std=1e-3, init_seed=3)
    plain = train(session(), config, StepA(lr=1e-9, epochs=1, batch_size=8), "t")
    penalised = train(session(), config, StepA(lr=1e-9, epochs=1, batch_size=8, l1=2.0), "t")
    total = sum(p.abs().sum().item() for p in plain.model.parameters() if p.requires_grad)
    difference = penalised.record["train_loss"][0] - plain.record["train_loss"][0]
    assert difference == pytest.approx(2.0 * total, rel=1e-3)
    assert penalised.record["validation_loss"][0] == plain.record["validation_loss"][0]


def test_a_strong_penalty_keeps_scaling_factors_small() -> None:
    config = LofitConfig(heads=None, scale=True, offset=False, init_std=1e-3, init_seed=3)
    norms = [
        head_norms(train(session(), config, StepA(lr=5e-3, epochs=6, batch_size=4, l1=l1), "t").model, which="scale")
        for l1 in (0.0, 1.0)
    ]
    assert norms[0].shape == (3, 4)
    assert norms[1].sum() < 0.5 * norms[0].sum()


def test_learning_rate_decays_linearly_to_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def record(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    train(session(), offsets(), step_v(lr=0.08, epochs=2), "t")
    assert rates == pytest.approx([0.08, 0.06, 0.04, 0.02])


def test_diverged_loss_is_a_failure_of_the_fit() -> None:
    class Diverging(trainer.SftObjective):
        def loss(self, model: torch.nn.Module, rows: Any) -> torch.Tensor:
            return super().loss(model, rows) * float("nan")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "SftObjective", Diverging)
        with pytest.raises(FitError, match="loss is nan at step 1 of 8; lower the learning rate"):
            train(session(), offsets(), step_v(), "t")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_is_a_failure_of_the_fit(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> torch.Tensor:
        raise error

    monkeypatch.setattr(trainer.SftObjective, "loss", fail)
    with pytest.raises(FitError, match=r"^out of memory"):
        train(session(), offsets(), step_v(), "t")


def test_other_errors_are_bugs_and_stay_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> torch.Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(trainer.SftObjective, "loss", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(session(), offsets(), step_v(), "t")


def test_an_edit_without_effect_is_refused() -> None:
    opened = session()
    for layer in opened.model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    with pytest.raises(EditError, match="no effect"):
        train(opened, offsets(), step_v(epochs=1), "t")


def test_no_training_rows_is_refused() -> None:
    with pytest.raises(TaskError, match="no training rows"):
        train(session(train=[]), offsets(), step_v(), "t")
