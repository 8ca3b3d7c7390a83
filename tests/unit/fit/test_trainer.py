"""The training loop: what it minimises, what it refuses, and that it repeats itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lofit.errors import EditError, FitError, TaskError
from lofit.fit import trainer
from lofit.fit.trainer import Validation, train
from lofit.interventions import LofitConfig, head_norms
from lofit.localize.lofit import Params as StepA
from lofit.methods import load_method
from lofit.methods.lofit import Params as StepV
from tests.sessions import PAIRS, session, workbench

HEADS = [(1, 0), (2, 3)]


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
        assert method.fit is not None
        fitted = method.fit(workbench(session()), params)
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
    rates.clear()
    train(session(), offsets(), step_v(lr=0.08, epochs=3, warmup=1 / 3), "t")
    assert rates == pytest.approx([0, 0.04, 0.08, 0.06, 0.04, 0.02])


def test_diverged_loss_is_a_failure_of_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    total = trainer.SftObjective.total

    def diverging(self: Any, forward: Any, rows: Any) -> torch.Tensor:
        loss = total(self, forward, rows)
        return loss * float("nan") if loss.requires_grad else loss

    monkeypatch.setattr(trainer.SftObjective, "total", diverging)
    with pytest.raises(FitError, match="loss is nan at step 1 of 8; lower the learning rate"):
        train(session(), offsets(), step_v(), "t")


def test_a_last_step_that_is_not_finite_is_a_failure_of_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    step, count = torch.optim.AdamW.step, 0

    def poisoned(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == 8:
            self.param_groups[0]["params"][0].grad[:] = float("nan")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", poisoned)
    for rows in (session().validation, []):
        count = 0
        with pytest.raises(FitError, match="validation loss is nan" if rows else "not finite after 8 steps"):
            train(session(validation=rows), offsets(), step_v(), "t")


def test_validation_loss_is_the_mean_over_tokens_whatever_the_batch_size() -> None:
    losses = []
    for size in (1, 3, 4):
        validation = Validation(opened := session(), step_v(batch_size=size))
        losses.append(validation.loss(validation.forward(opened.model)))
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_a_session_is_used_once() -> None:
    opened = session()
    train(opened, offsets(), step_v(epochs=1), "t")
    with pytest.raises(EditError, match="already has an adapter; open a new session"):
        train(opened, offsets(), step_v(epochs=1), "t")


def test_a_method_the_family_cannot_take_is_refused_in_one_line() -> None:
    method = load_method("bitfit")
    assert method.fit is not None
    with pytest.raises(EditError, match=r"BeftConfig does not fit GPT2LMHeadModel: .*Conv1D"):
        method.fit(workbench(session("gpt2")), method.Params(lr=0.1))


def test_an_edit_without_effect_is_refused() -> None:
    opened = session()
    for layer in opened.model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    with pytest.raises(EditError, match="no effect"):
        train(opened, offsets(), step_v(epochs=1), "t")


def test_no_training_rows_is_refused() -> None:
    with pytest.raises(TaskError, match="no training rows"):
        train(session(train=[]), offsets(), step_v(), "t")
