"""ITI and RepE: the edit equals the formula, strength is chosen on validation, and nothing is silently dead."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lofit.activations.reading import reading_vectors
from lofit.config.recipes import load_recipe
from lofit.errors import FitError
from lofit.files import read_json
from lofit.interventions import LofitConfig, offsets_times
from lofit.methods import load_method, recipe
from lofit.methods.strength import Edit, choose
from lofit.models.encoding import encode
from lofit.models.session import Session
from lofit.packing.forward import answer_logits
from lofit.packing.rows import unpacked
from lofit.plan.kinds import EVALUATE, FIT
from lofit.report.search import search_table
from lofit.spec.hyperparameters import ComputeParams
from lofit.training.forward import Forward
from lofit.training.trainer import Fitted, Validation
from tests.by_hand import PROJECTIONS, edited, outputs_edited
from tests.fitted import find, fitted_table, run_nodes, tiny_config, write_outputs
from tests.sessions import PAIRS, fit_context, session
from tests.tiny import tiny_model

FAMILIES = ("llama", "gemma", "qwen2", "qwen3", "gpt2", "gpt_neox", "phi", "olmo2")
SCORES = np.array([[0.1, 0.9, 0.2, 0.3], [0.8, 0.1, 0.1, 0.1], [0.1, 0.1, 0.7, 0.6]])  # best: (0, 1), (1, 0), (2, 2)
BEST = [(0, 1), (1, 0)]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 11)[None]).logits


def fitted(name: str, folder: Path, opened: Any = None, k: tuple[int, ...] = (), **params: Any) -> Any:
    method = load_method(name)
    assert method.fit is not None
    return method.fit(fit_context(opened or session(), folder, k, SCORES), method.Params(**params))


@pytest.mark.parametrize("family", FAMILIES)
def test_iti_shifts_heads_by_alpha_sigma_theta(family: str, tmp_path: Path) -> None:
    opened = session(family)
    result = fitted("iti", tmp_path, opened, (2,), alpha=(3.0,))
    activations, offsets = fit_context(session(family), tmp_path).activations, {}
    for layer, head in [(0, 1), (1, 0)]:
        train = activations.among("train")
        z = np.asarray(activations.heads[layer, train, head], dtype=np.float64)
        labels = activations.labels[train]
        theta = z[labels == 1].mean(0) - z[labels == 0].mean(0)
        theta /= np.sqrt((theta**2).sum())
        projected = z @ theta
        sigma = np.sqrt(((projected - projected.mean()) ** 2).mean())
        offsets[layer, head] = torch.tensor(3.0 * sigma * theta, dtype=torch.float32)
    plain = tiny_model(family, vocab_size=259)
    base = logits(plain)
    with edited(plain, family, {}, offsets):
        expected = logits(plain)
    assert not torch.equal(expected, base)
    assert_close(logits(result.model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_sadi_multiplies_heads_by_its_strength(family: str, tmp_path: Path) -> None:
    result = fitted("sadi", tmp_path, session(family), (2,), strength=(3.0,), positions="all")
    plain = tiny_model(family, vocab_size=259)
    base = logits(plain)
    scales = {head: torch.full((plain.config.head_dim if family in ("gemma", "qwen3") else 8,), 2.0) for head in BEST}
    with edited(plain, family, scales, {}):
        expected = logits(plain)
    assert not torch.equal(expected, base)
    assert_close(logits(result.model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_caa_adds_the_mean_difference_after_one_layer(family: str, tmp_path: Path) -> None:
    result = fitted("caa", tmp_path, session(family), layer=(0.34,), multiplier=(1.5,), positions="all")
    activations = fit_context(session(family), tmp_path).activations
    h, train = np.asarray(activations.blocks[1], dtype=np.float64), activations.among("train")
    difference = h[train & (activations.labels == 1)].mean(0) - h[train & (activations.labels == 0)].mean(0)
    plain = tiny_model(family, vocab_size=259)
    base = logits(plain)
    path = PROJECTIONS[family][0].split("{}")[0] + "{}"
    with outputs_edited(plain, path, {}, {1: torch.tensor(1.5 * difference, dtype=torch.float32)}):
        expected = logits(plain)
    assert not torch.equal(expected, base)
    assert_close(logits(result.model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_actadd_adds_the_difference_of_two_prompts_after_one_layer(family: str, tmp_path: Path) -> None:
    given = {"layer": (1,), "multiplier": (1.5,), "positions": "all", "towards": "yes", "away": "oh no"}
    result = fitted("actadd", tmp_path, session(family), **given)
    plain, tokenizer = tiny_model(family, vocab_size=259), session().tokenizer
    states = []
    for prompt in ("yes", "oh no"):
        with torch.no_grad():
            found = plain(torch.tensor([tokenizer(prompt)["input_ids"]]), output_hidden_states=True)
        states.append(found.hidden_states[2][0, -1])  # of layer 1: the first is of the embedding
    base = logits(plain)
    path = PROJECTIONS[family][0].split("{}")[0] + "{}"
    with outputs_edited(plain, path, {}, {1: 1.5 * (states[0] - states[1])}):
        expected = logits(plain)
    assert not torch.equal(expected, base)
    assert_close(logits(result.model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [{}, {"objective": "dpo", "train": PAIRS[:4], "validation": PAIRS[4:]}])
def test_bipo_learns_to_prefer_right_answers_and_its_opposite_wrong_ones(rows: dict[str, Any]) -> None:
    opened = session(**rows)
    method = load_method("bipo")
    assert method.fit
    result = method.fit(fit_context(opened), method.Params(lr=0.02, epochs=8, batch_size=4, beta=0.5, layer=0.4))
    losses = result.record["validation_loss"]
    assert losses[-1] < losses[0] == pytest.approx(math.log(2), rel=1e-5)
    assert result.model.peft_config["default"].layers == [1]
    twice = method.fit(
        fit_context(session(**rows, compute=ComputeParams(checkpointing=True))),
        method.Params(lr=0.02, epochs=8, batch_size=4, beta=0.5, layer=0.4),
    )
    assert twice.record["validation_loss"] == pytest.approx(losses, rel=1e-5)
    assert opened.objective == rows.get("objective", "sft")

    def margin() -> float:
        prompt, right, wrong = "7+7=", " 14", " 15" if not rows else " no"
        texts = [encode(opened.tokenizer, prompt, answer) for answer in (right, wrong)]
        found = Forward(result.model, [tuple(texts)], 0).log_probs([tuple(texts)])[0]
        return float(found[0] - found[1])

    with torch.no_grad():
        towards = margin()
        with offsets_times(result.model, -1.0):
            away = margin()
        with result.model.disable_adapter():
            neither = margin()
    assert away < neither < towards


def test_sadi_and_caa_choose_on_validation_and_may_choose_nothing(tmp_path: Path) -> None:
    """At answer positions, as in the recipes: what has the lowest loss is chosen."""
    for name, k, grid in (
        ("sadi", (1, 2), {"strength": (1.0, 2.0, 5.0)}),
        ("caa", (), {"layer": (0, 1), "multiplier": (0.0, 1.0)}),
    ):
        result = fitted(name, tmp_path, None, k, **grid)
        best = min(result.record["grid"], key=lambda entry: entry["validation_loss"])
        assert result.record["chosen"] == {key: best[key] for key in result.record["chosen"]}
        assert result.record["validation_loss"][1] == pytest.approx(best["validation_loss"])
        assert result.record["validation_loss"][1] <= result.record["validation_loss"][0] + 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_repe_adds_coefficient_times_norm_times_reading_vector(family: str, tmp_path: Path) -> None:
    opened = session(family)
    result = fitted("repe", tmp_path, opened, coefficient=(0.3,), layers=(0.67,))
    vectors = reading_vectors(fit_context(session(family), tmp_path).activations, "pca", seed=3)
    layers = np.argsort(-vectors.accuracies, kind="stable")[:2].tolist()
    offsets = {
        layer: torch.tensor(0.3 * vectors.norms[layer] * vectors.directions[layer], dtype=torch.float32)
        for layer in layers
    }
    plain = tiny_model(family, vocab_size=259)
    with outputs_edited(plain, PROJECTIONS[family][0].split("{}")[0] + "{}", {}, offsets):
        expected = logits(plain)
    assert not torch.equal(expected, logits(plain))
    assert_close(logits(result.model), expected, rtol=1e-4, atol=1e-4)


def test_alpha_zero_is_the_base_model_and_any_other_is_not(tmp_path: Path) -> None:
    base = logits(session().model)
    zero = fitted("iti", tmp_path, k=(3,), alpha=(0.0,))
    assert torch.equal(logits(zero.model), base)
    assert zero.record["validation_loss"][0] == zero.record["validation_loss"][1]
    other = fitted("iti", tmp_path, k=(3,), alpha=(2.0,))
    assert not torch.equal(logits(other.model), base)
    assert other.record["validation_loss"][0] != other.record["validation_loss"][1]


@pytest.mark.parametrize("rows", [{}, {"objective": "dpo", "train": PAIRS[:4], "validation": PAIRS[4:]}])
def test_alpha_and_k_are_those_with_the_lowest_validation_loss(rows: dict[str, Any], tmp_path: Path) -> None:
    result = fitted("iti", tmp_path, session(**rows), (1, 3), alpha=(1.0, 8.0, -4.0))
    grid, chosen = result.record["grid"], result.record["chosen"]
    assert [(point["k"], point["alpha"]) for point in grid] == [(k, a) for k in (1, 3) for a in (1.0, 8.0, -4.0)]
    best = min(grid, key=lambda point: point["validation_loss"])
    assert chosen == {"k": best["k"], "alpha": best["alpha"]}
    # Each number of the grid is the loss of that very edit, and the model handed back is the chosen one.
    params = load_method("iti").Params(alpha=(1.0,))
    opened = session(**rows)
    validation = Validation(opened, params)
    assert validation.loss(validation.forward(result.model)) == pytest.approx(best["validation_loss"], rel=1e-6)
    for point in grid:
        again = fitted("iti", tmp_path, session(**rows), (point["k"],), alpha=(point["alpha"],))
        assert again.record["validation_loss"][1] == pytest.approx(point["validation_loss"], rel=1e-6)
    assert result.model.peft_config["default"].heads == [(0, 1), (1, 0), (2, 2)][: chosen["k"]]


def chosen_shift(opened: Session, select_by: Literal["metric", "loss"]) -> Fitted:
    """Shifts of the last layer towards tokens that are in no answer, by which all answers become less likely."""
    model: Any = opened.model
    towards = (model.lm_head.weight * model.model.norm.weight).detach().double().numpy()

    def edit(token: int, alpha: float) -> Edit:
        config = LofitConfig(site="block", layers=[2], scale=False, offset=True, inference_mode=True)
        return config, {(2, 0): alpha * towards[token]}

    context = replace(fit_context(opened), select_by=select_by, metric=opened.metric)
    params = load_method("iti").Params(alpha=(0.0,))
    return choose(context, params, {"token": (0, 1), "alpha": (1000.0, 100.0, 0.0)}, edit)


def test_a_strength_is_chosen_by_the_metric_as_searches_are_and_among_equal_ones_by_the_loss() -> None:
    base = logits(session().model)

    def metric(model: Any, tokenizer: Any) -> float:
        return float(not torch.equal(logits(model), base))

    by_metric = chosen_shift(session(metric=metric), "metric").record
    grid = by_metric["grid"]
    assert [point["validation_metric"] for point in grid] == [1, 1, 0, 1, 1, 0]
    shifted = [point for point in grid if point["alpha"]]
    best = min(shifted, key=lambda point: point["validation_loss"])
    assert by_metric["chosen"] == {"token": best["token"], "alpha": 100.0}
    assert by_metric["validation_metric"] == [0, 1]
    assert by_metric["validation_loss"][1] == best["validation_loss"] > by_metric["validation_loss"][0]
    assert chosen_shift(session(metric=metric), "loss").record["chosen"] == {"token": 0, "alpha": 0.0}


def test_doing_nothing_is_chosen_when_every_shift_harms() -> None:
    base = logits(session().model)
    result = chosen_shift(session(), "loss")
    losses = [point["validation_loss"] for point in result.record["grid"]]
    assert result.record["chosen"] == {"token": 0, "alpha": 0.0}
    before, after = result.record["validation_loss"]
    assert before == after == losses[2] == losses[5]
    assert min(losses[:2] + losses[3:5]) > after + 0.1
    assert torch.equal(logits(result.model), base)


@pytest.mark.parametrize("name", ["iti", "repe"])
def test_the_published_grid_has_doing_nothing_in_it(name: str) -> None:
    method = load_method(name)
    (entry,) = load_recipe(recipe(name))
    params = method.Params(**entry.set).model_dump()
    assert 0 in params["alpha" if name == "iti" else "coefficient"]


def test_a_fit_that_chose_to_do_nothing_is_scored_as_the_base(tmp_path: Path) -> None:
    nothing = {"heads": {"k": [2, 3]}, "params": {"alpha": [0.0]}}
    table = fitted_table(tiny_config(tmp_path, {"base": None, "iti": nothing}))
    run_nodes(table, EVALUATE)
    scores = {at.fit.method: read_json(table.folder(at) / "results.json") for at in table.evaluations.values()}
    assert FIT.read_report(table, find(table, "iti"))["chosen"] == {"k": 2, "alpha": 0.0}
    assert scores["iti"]["status"] == "ok"
    assert scores["iti"]["metrics"] == scores["base"]["metrics"]
    tried = search_table(table)
    assert tried["setting"].tolist() == ["alpha=0.0, k=2", "alpha=0.0, k=3"]
    assert tried["heads"].tolist() == ["first 2 or 3 of iti_probe"] * 2
    assert tried["chosen"].tolist() == ["yes", "no"]
    assert tried["select_by"].tolist() == ["metric"] * 2
    for name in ("validation_metric", "validation_loss"):
        before, after = FIT.read_report(table, find(table, "iti"))[name]
        assert tried[name].tolist() == [before] * 2 == [after] * 2
    write_outputs(table, "search")
    assert "alpha=0.0, k=3" in (table.config.results / "tables" / "search.md").read_text()


def test_nothing_of_an_estimated_edit_is_trained(tmp_path: Path) -> None:
    result = fitted("iti", tmp_path, k=(2,), alpha=(1.0,))
    assert not any(parameter.requires_grad for parameter in result.model.parameters())


def test_without_validation_rows_nothing_can_be_chosen(tmp_path: Path) -> None:
    with pytest.raises(FitError, match="raise n_validation"):
        fitted("iti", tmp_path, session(validation=[]), (2,), alpha=(1.0,))


def test_an_edit_too_large_for_the_model_is_passed_over(tmp_path: Path) -> None:
    result = fitted("iti", tmp_path, k=(2,), alpha=(1e60, 1.0))
    assert result.record["grid"][0]["validation_loss"] is None
    assert result.record["chosen"]["alpha"] == 1.0
    with pytest.raises(FitError, match="lower the values of the grid"):
        fitted("iti", tmp_path, k=(2,), alpha=(1e60,))


def test_answer_logits_see_the_edit(tmp_path: Path) -> None:
    # Guards the trap of an edit at the last position only, whose logits multiple-choice scoring never reads.
    from lofit.models.encoding import encode

    opened = session()
    example = encode(opened.tokenizer, "2+2=", " 4")
    batch = unpacked([example], 0, torch.device("cpu"))
    with torch.no_grad():
        before = answer_logits(opened.model, batch)
        after = answer_logits(fitted("iti", tmp_path, opened, (3,), alpha=(2.0,)).model, batch)
    assert ((after - before).abs().amax(-1) > 0).all()
