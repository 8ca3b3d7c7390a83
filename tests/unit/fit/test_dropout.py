"""Dropout of an adapter acts in training steps only, with masks that depend on seed and step alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lofit.methods import load_method
from lofit.spec.hyperparameters import ComputeParams
from lofit.training.trainer import Fitted
from tests.sessions import PAIRS, fit_context, session


def fit(dropout: float, opened: Any = None, method: str = "lora", **changes: Any) -> Fitted:
    lora = load_method(method)
    assert lora.fit is not None
    values = {"lr": 0.02, "epochs": 2, "batch_size": 4, "dropout": dropout} | changes
    return lora.fit(fit_context(opened or session()), lora.Params(**values))


def pairs(**changes: Any) -> Any:
    return session(objective="dpo", train=PAIRS[:5], validation=PAIRS[5:], **changes)


def test_dora_has_it_too() -> None:
    """PEFT asks the layer whether it is in training, and not the module of the dropout."""
    assert fit(0.5, method="dora").record["train_loss"] != fit(0.0, method="dora").record["train_loss"]


@pytest.mark.parametrize("opened", [session, pairs])
def test_the_same_seed_draws_the_same_masks_and_leaves_the_global_generator_alone(opened: Any) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = fit(0.5, opened())
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert fit(0.5, opened()).record["train_loss"] == first.record["train_loss"]
    assert fit(0.0, opened()).record["train_loss"] != first.record["train_loss"]
    assert fit(0.5, opened(seed=4)).record["train_loss"] != first.record["train_loss"]


def test_validation_and_the_fitted_model_have_no_dropout() -> None:
    fitted = fit(0.9)
    assert fitted.record["validation_loss"][0] == fit(0.0).record["validation_loss"][0]
    ids = torch.arange(3, 11)[None]
    with torch.no_grad():
        assert torch.equal(fitted.model(ids).logits, fitted.model(ids).logits)
    assert not any(module.training for module in fitted.model.modules())


def test_masks_have_the_configured_share_and_keep_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    forward = nn.Dropout.forward

    def recorded(self: nn.Dropout, x: torch.Tensor) -> torch.Tensor:
        out = forward(self, x)
        if self.training:
            seen.append((x.detach(), out.detach()))
        return out

    monkeypatch.setattr(nn.Dropout, "forward", recorded)
    fit(0.25)
    assert len(seen) == 2 * 2 * 2 * 3, "epochs x batches x query and value x layers"
    kept = torch.cat([(out != 0).flatten()[(x != 0).flatten()] for x, out in seen]).double()
    assert abs(float(kept.mean()) - 0.75) < 5 * (0.25 * 0.75 / len(kept)) ** 0.5
    x, out = seen[0]
    assert_close(out[out != 0], x[out != 0] / 0.75)
    masks = [(out != 0) for _, out in seen if out.shape == seen[0][1].shape]
    assert not all(torch.equal(mask, masks[0]) for mask in masks)


def test_the_dropout_of_the_base_model_stays_off() -> None:
    off = dict.fromkeys(("resid_pdrop", "attn_pdrop", "embd_pdrop"), 0.0)
    on = dict.fromkeys(off, 0.9)
    losses = [fit(0.3, session("gpt2", given)).record["train_loss"] for given in (off, on)]
    assert losses[0] == losses[1]


def test_recomputed_activations_have_the_same_masks() -> None:
    losses = [
        fit(0.5, session(compute=ComputeParams(checkpointing=checkpointing))).record["train_loss"]
        for checkpointing in (False, True)
    ]
    assert_close(losses[0], losses[1])
