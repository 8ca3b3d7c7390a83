"""The training loop: what it minimises, what it refuses, and that it repeats itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lofit.errors import EditError, FitError, TaskError
from lofit.interventions import LofitConfig, head_norms
from lofit.localizers.lofit import Params as StepA
from lofit.methods import load_method
from lofit.methods.lofit import Params as StepV
from lofit.models.session import Session
from lofit.spec.hyperparameters import ComputeParams
from lofit.training import loop, trainer
from lofit.training.trainer import Penalty, Validation, train
from tests.sessions import PAIRS, fit_context, session

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
        fitted = method.fit(fit_context(session()), params)
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


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_validation_loss_leaves_out_the_end_of_sequence(objective: str) -> None:
    """It is that of a loop over the answers' own tokens."""

    def opened() -> Session:
        return session() if objective == "sft" else session(objective="dpo", train=PAIRS[:4], validation=PAIRS[4:])

    def log_prob(model: Any, prompt: str, answer: str) -> tuple[float, int]:
        tokenize = opened().tokenizer
        ids, start = tokenize(prompt + answer)["input_ids"], len(tokenize(prompt)["input_ids"])
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(scores[at - 1, ids[at]].item() for at in range(start, len(ids))), len(ids) - start

    def by_hand(given: Session, model: Any, base: Any) -> float:
        losses, terms = [], 0
        for row in given.validation:
            if objective == "sft":
                score, n = log_prob(model, row["prompt"], row["target"])
                losses.append(-score)
                terms += n
            else:
                sums = [
                    [log_prob(of, row["train_prompt"], row[name])[0] for name in ("chosen", "rejected")]
                    for of in (model, base)
                ]
                margin = (sums[0][0] - sums[0][1]) - (sums[1][0] - sums[1][1])
                losses.append(float(np.log1p(np.exp(-0.5 * margin))))
                terms += 1
        return sum(losses) / terms

    used = opened()
    validation = Validation(used, step_v())
    moved = opened().model
    with torch.no_grad():
        moved.model.norm.weight.mul_(1.1)
    assert validation.loss(validation.forward(moved)) == pytest.approx(by_hand(used, moved, opened().model), rel=1e-4)


def test_a_session_is_used_once() -> None:
    opened = session()
    train(opened, offsets(), step_v(epochs=1), "t")
    with pytest.raises(EditError, match="already has an adapter; open a new session"):
        train(opened, offsets(), step_v(epochs=1), "t")


def test_a_method_the_family_cannot_take_is_refused_in_one_line() -> None:
    method = load_method("bitfit")
    assert method.fit is not None
    with pytest.raises(EditError, match=r"BeftConfig does not fit GPT2LMHeadModel: .*Conv1D"):
        method.fit(fit_context(session("gpt2")), method.Params(lr=0.1))


def test_an_edit_without_effect_is_refused() -> None:
    opened = session()
    for layer in opened.model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    with pytest.raises(EditError, match="no effect"):
        train(opened, offsets(), step_v(epochs=1), "t")


def test_no_training_rows_is_refused() -> None:
    with pytest.raises(TaskError, match="no training rows"):
        train(session(train=[]), offsets(), step_v(), "t")


def full(dtype: torch.dtype, lr: float = 2e-5, **changes: Any) -> torch.Tensor:
    """How all weights change in full fine-tuning: float32 [weights]."""
    opened = session()
    opened.model.to(dtype)
    before = torch.cat([p.detach().float().flatten() for p in opened.model.parameters()])
    fitted = train(
        opened, None, load_method("full").Params(**({"lr": lr, "epochs": 40, "batch_size": 4} | changes)), "t"
    )
    after = torch.cat([p.detach().float().flatten() for p in fitted.model.parameters()])
    assert {p.dtype for p in fitted.model.parameters()} == {dtype}
    return after - before


def test_small_updates_of_weights_in_half_precision_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a usual learning rate a single update is less than bfloat16 can hold, and all of them together are not."""
    wanted, found = full(torch.float32), full(torch.bfloat16)
    monkeypatch.setattr(
        loop.MasterWeights, "__init__", lambda self, values: vars(self).update(values=values, masters=values)
    )
    plain = full(torch.bfloat16)
    assert found.abs().sum() > 3 * plain.abs().sum()
    assert torch.cosine_similarity(found, wanted, 0) > 0.6 > torch.cosine_similarity(plain, wanted, 0)


def test_masters_go_on_from_a_save_point(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def run(save_to: Path | None, kill: bool = False) -> dict[str, torch.Tensor]:
        opened = session(save_to=save_to, compute=ComputeParams(save_minutes=0))
        opened.model.to(torch.bfloat16)
        with pytest.MonkeyPatch.context() as patch:
            if kill:
                steps = iter(range(5))
                step = loop._update
                patch.setattr(loop, "_update", lambda *args: step(*args) if next(steps, None) is not None else killed())
            fitted = train(opened, None, load_method("full").Params(lr=1e-4, epochs=5, batch_size=4), "t")
        return {name: p.detach() for name, p in fitted.model.named_parameters()}

    def killed() -> None:
        raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "point.safetensors", kill=True)
    resumed, whole = run(tmp_path / "point.safetensors"), run(None)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


class Scattering:
    """A penalty with an operation that has no deterministic form (``put_`` without ``accumulate``)."""

    def __init__(self, model: Any) -> None:
        self.trained = [p for p in model.parameters() if p.requires_grad]

    def value(self, step: int) -> torch.Tensor:
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
        return 0.1 * sum((p.abs().sum() for p in self.trained), torch.zeros(()))


def test_only_deterministic_operations_are_used_or_it_is_said() -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        plain = train(session(), offsets(), step_v(), "t")
        scattered = train(
            session(),
            offsets(),
            step_v(),
            "t",
            lambda model: Penalty(Scattering(model).value, lambda: None, torch.Generator()),
        )
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    assert (plain.record["deterministic"], scattered.record["deterministic"]) == (True, False)
    assert len(scattered.record["train_loss"]) == 8, "the step is computed again, not left out"


class Waits(TorchDispatchMode):
    """Counts what a GPU would have to be waited for: numbers that are asked for."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "_local_scalar_dense" in str(function)
        return function(*args, **(kwargs or {}))


def test_no_number_is_asked_for_in_every_micro_batch() -> None:
    counts = []
    for size in (1, 4):
        with Waits() as waits:
            train(session(compute=ComputeParams(micro_batch=size)), offsets(), step_v(), "t")
        counts.append(waits.count)
    assert counts[0] == counts[1] > 0
