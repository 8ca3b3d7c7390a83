"""Losses against formulas written out example by example, without padding and on full logits."""

from __future__ import annotations

import math

import pytest
import torch
from peft import get_peft_model

from lofit.interventions import LofitConfig, set_vectors
from lofit.models.encoding import Example, Row
from lofit.training.forward import Forward
from lofit.training.objectives import BipoObjective, DpoObjective, SftObjective
from tests.by_hand import PROJECTIONS, outputs_edited
from tests.tiny import FAMILIES, tiny_model

ROWS = [Example((5, 6, 7, 8, 9, 2), 4), Example((11, 12, 2), 1), Example((21, 22, 23, 24, 25, 26, 27, 2), 7)]
PAIRS = [(ROWS[0], ROWS[1]), (ROWS[2], ROWS[0]), (Example((5, 6, 7, 8, 2), 3), Example((5, 6, 7, 9, 9, 2), 3))]


def forward(model: torch.nn.Module, rows: list[Row]) -> Forward:
    return Forward(model, rows, 0)


def token_log_probs(model: torch.nn.Module, example: Example) -> list[float]:
    """log p of each answer token given all before it."""
    ids = torch.tensor([example.ids])
    with torch.no_grad():
        table = model(ids).logits[0].double().log_softmax(-1)
    return [float(table[i - 1, ids[0, i]]) for i in range(example.answer_start, ids.shape[1])]


@pytest.mark.parametrize("family", FAMILIES)
def test_sft_is_the_token_mean_over_answers(family: str) -> None:
    model, rows, objective = tiny_model(family), [(example,) for example in ROWS], SftObjective()
    expected = [-lp for example in ROWS for lp in token_log_probs(model, example)]
    assert objective.terms(rows) == len(expected)
    assert objective.total(forward(model, rows), rows).item() == pytest.approx(sum(expected), rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma", "bloom"])
def test_dpo_is_the_sigmoid_loss_with_the_base_as_reference(family: str) -> None:
    base, tuned, beta = tiny_model(family), tiny_model(family, seed=1), 0.5
    objective = DpoObjective(beta)
    objective.prepare(base, PAIRS, batch_size=2)
    terms = []
    for chosen, rejected in PAIRS:
        margin = sum(token_log_probs(tuned, chosen)) - sum(token_log_probs(tuned, rejected))
        reference = sum(token_log_probs(base, chosen)) - sum(token_log_probs(base, rejected))
        terms.append(math.log1p(math.exp(-beta * (margin - reference))))
    assert objective.terms(PAIRS) == 3
    assert objective.total(forward(tuned, PAIRS), PAIRS).item() == pytest.approx(sum(terms), rel=1e-4)


def test_dpo_of_the_reference_itself_is_ln_2() -> None:
    base = tiny_model("llama")
    run = forward(base, PAIRS)
    objective = DpoObjective(0.5)
    objective.prepare(base, PAIRS, batch_size=2)
    assert objective.total(run, PAIRS).item() / 3 == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_bipo_is_dpo_of_the_offset_and_of_its_opposite_with_the_pair_swapped(family: str) -> None:
    beta, base = 0.5, tiny_model(family)
    tuned = get_peft_model(tiny_model(family), LofitConfig(site="block", layers=[1], scale=False, offset=True))
    offset = torch.randn(base.config.hidden_size, generator=torch.Generator().manual_seed(0))
    set_vectors(tuned, {(1, 0): offset.numpy()})
    objective = BipoObjective(beta)
    objective.prepare(base, PAIRS, batch_size=2)
    total = objective.total(forward(tuned, PAIRS), PAIRS)
    total.backward()
    (gradient,) = [p.grad for p in tuned.parameters() if p.requires_grad]
    terms, h = [], 1e-3
    path = PROJECTIONS[family][0].split("{}")[0] + "{}"
    for sign in (1, -1):
        for moved in (0, h, -h):
            plain = tiny_model(family).double()
            vector = sign * (offset.double() + moved * gradient[0].double())
            with outputs_edited(plain, path, {}, {1: vector}):
                for chosen, rejected in PAIRS:
                    margin = sum(token_log_probs(plain, chosen)) - sum(token_log_probs(plain, rejected))
                    reference = sum(token_log_probs(base, chosen)) - sum(token_log_probs(base, rejected))
                    terms.append((moved, math.log1p(math.exp(-beta * sign * (margin - reference))) / 2))
    at, above, below = (sum(term for moved, term in terms if moved == where) for where in (0, h, -h))
    assert total.item() == pytest.approx(at, rel=1e-4)
    assert (above - below) / (2 * h) == pytest.approx(float(gradient.double().square().sum()), rel=1e-2)
    # Validation measures the offset as it is used.
    measured = objective.measures(forward(tuned, PAIRS), PAIRS)
    assert measured.keys() == {"loss", "preference_accuracy"}
    dpo = DpoObjective(beta)
    dpo.prepare(base, PAIRS, batch_size=2)
    assert measured["loss"].item() == pytest.approx(dpo.total(forward(tuned, PAIRS), PAIRS).item(), rel=1e-6)
