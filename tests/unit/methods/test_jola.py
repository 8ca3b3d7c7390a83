"""JoLA's gates: the constants of the distribution, what they do to the edit, and that they fold away."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.testing import assert_close

from lofit.interventions import LofitConfig, export_merged
from lofit.interventions.tuner.gates import Gates, HardConcrete
from lofit.methods import load_method
from lofit.methods.jola import Params, penalty_weights
from tests.by_hand import edited, vectors_of
from tests.sessions import fit_context, session
from tests.tiny import tiny_model, tiny_tokens

TOKENS = tiny_tokens()
FAMILIES = ("llama", "gemma", "qwen2", "gpt2", "phi", "opt")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def gate_at(value: float) -> HardConcrete:
    gate = HardConcrete(1, torch.Generator().manual_seed(0))
    gate.log_a.data.fill_(value)
    return gate


def test_constants_of_the_distribution() -> None:
    # sigmoid(0) stretched to (-0.1, 1.1) is 0.5; P(open) at 0 is sigmoid(0.33 ln 11) = sigmoid(0.791) = 0.688
    with torch.no_grad():
        assert gate_at(0).gate().item() == pytest.approx(0.5)
        assert gate_at(0).open_probability().item() == pytest.approx(0.688, abs=5e-4)
        assert gate_at(-2.399).gate().item() == 0
        assert gate_at(-2.397).gate().item() > 0
        assert gate_at(2.399).gate().item() == 1
        assert gate_at(2.397).gate().item() < 1


def test_a_drawn_gate_is_open_as_often_as_it_says() -> None:
    gate = HardConcrete(4000, torch.Generator().manual_seed(0))
    for value in (-1.0, 0.0, 1.0):
        gate.log_a.data.fill_(value)
        share = (gate.gate() > 0).float().mean().item()
        assert share == pytest.approx(gate.open_probability()[0].item(), abs=0.03)
        drawn = gate.gate()
        assert torch.equal(gate.gate(), drawn), "every pass of a step has the same gates"
        gate.draw()
        assert not torch.equal(gate.gate(), drawn)


def test_initial_gates_are_uniform_in_the_xavier_bound() -> None:
    values = torch.cat([HardConcrete(32, torch.Generator().manual_seed(seed)).log_a.detach() for seed in range(40)])
    bound = math.sqrt(6 / 33)
    assert values.abs().max() <= bound == pytest.approx(0.426, abs=1e-3)
    assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_gated_edit_equals_the_formula_and_folds(family: str, tmp_path: Any) -> None:
    config = LofitConfig(scale=True, offset=True, init_std=0.5, init_seed=1)
    model = get_peft_model(tiny_model(family), config)
    a, v = vectors_of(model, family, "scale"), vectors_of(model, family, "offset")
    gates = Gates(model, seed=2)
    with torch.no_grad():
        # Opened, closed and half-open heads in every layer.
        for kind in ("scale", "offset"):
            for _, gate in gates._gates[kind]:
                gate.log_a.copy_(torch.tensor([[-3.0], [3.0], [0.0], [1.0]]))
    g = {head: min(1.0, max(0.0, 1.2 / (1 + math.exp(-x)) - 0.1)) for head, x in enumerate((-3.0, 3.0, 0.0, 1.0))}
    plain = tiny_model(family)
    with edited(plain, family, {p: g[p[1]] * a[p] for p in a}, {p: g[p[1]] * v[p] for p in v}):
        expected = logits(plain)
    assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    told = gates.close()
    assert told["scale"] == told["offset"]
    assert (told["scale"]["closed"], told["scale"]["open"]) == (0.25, 0.25)
    values = sorted(g.values())
    assert told["scale"]["quartiles"] == pytest.approx(np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist())
    assert torch.equal(logits(model), logits(model))
    assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(tiny_model(family), tmp_path / "adapter")
    assert torch.equal(logits(loaded), logits(model))
    export_merged(model, tmp_path / "merged")


def test_closed_gates_are_the_base_model_to_the_bit() -> None:
    model = get_peft_model(tiny_model("llama"), LofitConfig(scale=True, offset=True, init_std=0.5))
    gates = Gates(model, seed=0)
    for kind in ("scale", "offset"):
        for _, gate in gates._gates[kind]:
            gate.log_a.data.fill_(-5)
    assert torch.equal(logits(model), logits(tiny_model("llama")))


def test_penalty_weights_decay_from_the_first_step() -> None:
    params = Params(lr=0.1, gate_weight=0.1, gate_decay=0.01)
    assert penalty_weights(params, 0) == pytest.approx((0.1, 0.9))
    assert penalty_weights(params, 100) == pytest.approx((0.1 / math.e, 1 - 0.1 / math.e))


def test_fitting_trains_vectors_and_gates_and_stores_plain_vectors() -> None:
    method = load_method("jola")
    assert method.fit is not None

    def run(**changes: Any) -> Any:
        return method.fit(fit_context(session()), Params(**({"lr": 0.02, "epochs": 6, "batch_size": 4} | changes)))

    fitted = run()
    assert fitted.record["trained_params"] == 2 * 12 * (8 + 1)
    assert sum(p.numel() for p in fitted.model.parameters() if p.requires_grad) == 2 * 12 * 8
    assert fitted.record["validation_loss"][-1] < fitted.record["validation_loss"][0]
    assert not any("parametrizations" in name for name, _ in fitted.model.named_parameters())
    again = run()
    assert fitted.record["train_loss"] == again.record["train_loss"]
    # The penalty is part of the training loss: at the first step 0.1 + 0.9 of the mean share, and a quarter of it
    # under the authors' second division by the number of heads.
    plain, double = (
        run(epochs=1, lr=1e-9, compat_double_normalisation=double).record["train_loss"][0] for double in (False, True)
    )
    gates = Gates(get_peft_model(tiny_model("llama"), LofitConfig(scale=True, offset=True)), seed=3)
    share = 0.1 * gates.open_share("offset").item() + 0.9 * gates.open_share("scale").item()
    assert plain - double == pytest.approx(share * 3 / 4, rel=1e-4)
