"""Damage of heads on a tiny model: what it changes, how it is undone, and what is found and fitted on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lofit.errors import FitError
from lofit.interventions import LofitConfig, find_site
from lofit.localizers import load_localizer
from lofit.models.damage import Damage, Planted, damaged
from lofit.models.encoding import Example, Row, encode_rows
from lofit.models.session import Session
from lofit.nodes.plant import draw
from lofit.spec.hyperparameters import FitParams, LossParams
from lofit.training.effects import output_norms, single_effects
from lofit.training.forward import Forward
from lofit.training.objectives import KlObjective
from lofit.training.trainer import Validation, train
from tests.by_hand import vectors_of
from tests.sessions import fit_context, session
from tests.tiny import FAMILIES, tiny_model, tiny_tokens

HEADS = ((0, 1), (2, 0), (2, 3))
ROWS: list[Row] = [
    (Example((5, 6, 7, 8, 9, 2), 4),),
    (Example((11, 12, 13, 14), 1),),
    (Example((21, 22, 23, 24, 25, 26, 27, 2), 5),),
]


def damage(model: torch.nn.Module, heads: tuple[tuple[int, int], ...] = HEADS) -> Damage:
    generator = torch.Generator().manual_seed(1)
    offsets = torch.randn(len(heads), find_site(model).width, generator=generator)
    return Damage(heads, torch.tensor([0.3, 3.0, 1.0, 1.0])[: len(heads)], offsets)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(tiny_tokens()).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_damage_is_that_edit_of_the_heads_and_of_nothing_else_and_is_undone_to_the_bit(family: str) -> None:
    model = tiny_model(family).requires_grad_(False)
    before, site, done = logits(model), find_site(model), damage(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}

    def edit(layer: int) -> Any:
        def hook(module: Any, inputs: Any) -> Any:
            z = inputs[0].unflatten(-1, (site.groups, site.width)).clone()
            for (at, head), factor, offset in zip(done.heads, done.factors, done.offsets, strict=True):
                if at == layer:
                    z[..., head, :] = factor * z[..., head, :] - offset
            return (z.flatten(-2),)

        return model.get_submodule(site.module_name(layer)).register_forward_pre_hook(hook)

    hooks = [edit(layer) for layer in range(site.n_layers)]
    expected = logits(model)
    for hook in hooks:
        hook.remove()
    with damaged(model, done):
        torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
        changed = {
            name for name, value in model.state_dict().items() if not torch.equal(value, weights.get(name, value))
        }
    assert {name.rpartition(".")[0] for name in changed} <= {site.module_name(0), site.module_name(2)}
    planted = Planted(model, done)
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
    with planted.undone():
        assert torch.equal(logits(model), before)
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected, before, atol=1e-3)


def test_damage_is_read_back(tmp_path: Path) -> None:
    done = damage(tiny_model("llama"))
    done.save(tmp_path / "damage.safetensors")
    found = Damage.load(tmp_path / "damage.safetensors")
    assert found.heads == done.heads
    assert torch.equal(found.factors, done.factors) and torch.equal(found.offsets, done.offsets)
    alone = done.at([(2, 0)])
    assert alone.heads == ((2, 0),)
    assert float(alone.factors[0]) == 3.0


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_kl_is_that_of_full_logits_at_every_answer_position(family: str) -> None:
    model = tiny_model(family).requires_grad_(False)
    with torch.no_grad():
        intact = [model(torch.tensor([row[0].ids])).logits[0].double().log_softmax(-1) for row in ROWS]
    objective = KlObjective(planted := Planted(model, damage(model)))
    forward = Forward(model, ROWS, 0)
    objective.prepare(model, ROWS, 2)
    expected = 0.0
    for (text,), p in zip(ROWS, intact, strict=True):
        with torch.no_grad():
            q = model(torch.tensor([text.ids])).logits[0].double().log_softmax(-1)
        at = slice(text.answer_start - 1, len(text.ids) - 1)
        expected += float((p[at].exp() * (p[at] - q[at])).sum())
    assert objective.terms(ROWS) == 2 + 3 + 3
    assert objective.total(forward, ROWS).item() == pytest.approx(expected, rel=1e-4)
    with planted.undone():
        assert objective.total(forward, ROWS).item() == pytest.approx(0, abs=1e-5)


def test_effects_are_the_rise_of_the_loss_with_one_damaged_head() -> None:
    model = tiny_model("llama").requires_grad_(False)
    everywhere = tuple((layer, head) for layer in range(3) for head in range(4))
    offsets = torch.randn(12, 8, generator=torch.Generator().manual_seed(2))
    done = Damage(everywhere, torch.full((12,), 0.5), offsets)
    found = single_effects(model, ROWS, done).set_index(["layer", "head"])

    def losses() -> np.ndarray:
        rows = []
        for (text,) in ROWS:
            with torch.no_grad():
                table = model(torch.tensor([text.ids])).logits[0].double().log_softmax(-1)
            rows.append(-sum(float(table[i - 1, text.ids[i]]) for i in range(text.answer_start, len(text.ids))))
        return np.array(rows)

    before, counts = losses(), np.array([2, 3, 3])
    for head in [(0, 2), (1, 0), (2, 3)]:
        with damaged(model, done.at([head])):
            rises = losses() - before
        mean = rises.sum() / 8
        residuals = (rises - mean * counts) / 8
        assert found.loc[head, "effect"] == pytest.approx(mean, abs=1e-5)
        assert found.loc[head, "error"] == pytest.approx(np.sqrt(3 / 2 * (residuals**2).sum()), rel=1e-3)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_norms_of_outputs_leave_padding_out() -> None:
    model = tiny_model("llama").requires_grad_(False)
    site, seen = find_site(model), list[torch.Tensor]()
    handle = model.get_submodule(site.module_name(1)).register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0][0].unflatten(-1, (4, 8)))
    )
    with torch.no_grad():
        for (text,) in ROWS:
            model(torch.tensor([text.ids[:-1]]))
    handle.remove()
    norms = torch.cat(seen).norm(dim=-1).square().mean(0).sqrt()
    torch.testing.assert_close(output_norms(model, ROWS)[1], norms, atol=1e-5, rtol=1e-4)


def planted_session(objective: str, heads: tuple[tuple[int, int], ...] = HEADS, size: float = 1.0) -> Session:
    opened = session(objective=objective)
    done = damage(opened.model, heads)
    done = Damage(heads, torch.ones(len(heads)), size * done.offsets)
    opened.planted = Planted(opened.model, done)
    return opened


@pytest.mark.parametrize("objective", ["kl", "sft"])
def test_texts_are_not_ended_and_the_loss_of_the_intact_model_is_the_goal(objective: str) -> None:
    opened = planted_session(objective)
    validation = Validation(opened, LossParams())
    forward = validation.forward(opened.model)
    before = validation.loss(forward)
    assert before is not None
    with opened.planted.undone():  # type: ignore[union-attr]
        after = validation.loss(forward)
    if objective == "kl":
        assert after == pytest.approx(0, abs=1e-6) and before > 1e-3
    rows = encode_rows(opened.tokenizer, opened.train, opened.objective, 512)
    assert all(row[0].ids[-1] == opened.tokenizer.eos_token_id for row in rows)
    fitted = train(opened, LofitConfig(heads=[(0, 0)], scale=False, offset=True), FitParams(lr=0.01, epochs=1), "t")
    assert fitted.record["validation_loss"][0] == pytest.approx(before)


def test_offsets_on_the_planted_heads_undo_the_damage() -> None:
    """With dense targets, the offsets that are fitted are those that were taken away."""
    heads = ((1, 1), (2, 2))
    opened = planted_session("kl", heads)
    done = opened.planted.damage  # type: ignore[union-attr]
    config = LofitConfig(heads=list(heads), scale=False, offset=True)
    fitted = train(opened, config, FitParams(lr=0.05, epochs=150, batch_size=8), "t")
    found = vectors_of(fitted.model, "llama", "offset")
    for head, offset in zip(done.heads, done.offsets, strict=True):
        assert float(torch.cosine_similarity(found[head].detach(), offset, dim=0)) > 0.99
        assert float(found[head].norm() / offset.norm()) == pytest.approx(1, abs=0.05)
    losses = fitted.record["validation_loss"]
    assert losses[-1] < 0.01 * losses[0]


def test_oracle_and_truth_rank_planted_heads_first() -> None:
    for name in ("oracle", "planted"):
        localizer = load_localizer(name)
        found = localizer.score(fit_context(planted_session("kl", HEADS)), localizer.Params()).values
        best = {(int(at) // 4, int(at) % 4) for at in np.argsort(-found, axis=None)[:3]}
        assert best == set(HEADS)
        assert (np.sort(found, axis=None)[:9] == 0).all()


def test_heads_are_drawn_among_the_visible_ones() -> None:

    effects = pd.DataFrame(
        {"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "effect": [0.31, 0.29, -0.9, 0.61], "error": [0.1, 0.1, 0.1, 0.2]}
    )
    assert draw(effects, 2, 0) == [(0, 0), (1, 1)]
    assert {draw(effects, 1, seed)[0] for seed in range(20)} == {(0, 0), (1, 1)}
    with pytest.raises(FitError, match="the damage of 2 heads is visible, 3 are to be planted"):
        draw(effects, 3, 0)
