"""Losses against formulas written out example by example, without padding and on full logits."""

from __future__ import annotations

import math

import pytest
import torch

from lofit.fit.examples import Example
from lofit.fit.objectives import DpoObjective, SftObjective
from tests.tiny import FAMILIES, tiny_model

CPU = torch.device("cpu")
ROWS = [Example((5, 6, 7, 8, 9, 2), 4), Example((11, 12, 2), 1), Example((21, 22, 23, 24, 25, 26, 27, 2), 7)]


def token_log_probs(model: torch.nn.Module, example: Example) -> list[float]:
    """log p of each answer token given all before it."""
    ids = torch.tensor([example.ids])
    with torch.no_grad():
        table = model(ids).logits[0].double().log_softmax(-1)
    return [float(table[i - 1, ids[0, i]]) for i in range(example.answer_start, ids.shape[1])]


@pytest.mark.parametrize("family", FAMILIES)
def test_sft_is_the_token_mean_over_answers(family: str) -> None:
    model = tiny_model(family)
    expected = [-lp for example in ROWS for lp in token_log_probs(model, example)]
    total, count = SftObjective(0, CPU).total(model, [(example,) for example in ROWS])
    assert count == len(expected)
    assert total.item() / count == pytest.approx(sum(expected) / len(expected), rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_dpo_is_the_sigmoid_loss_with_the_base_as_reference(family: str) -> None:
    base, tuned, beta = tiny_model(family), tiny_model(family, seed=1), 0.5
    pairs = [(ROWS[0], ROWS[1]), (ROWS[2], ROWS[0])]
    objective = DpoObjective(0, CPU, beta, batch_size=1)
    objective.prepare(base, pairs)
    terms = []
    for chosen, rejected in pairs:
        margin = sum(token_log_probs(tuned, chosen)) - sum(token_log_probs(tuned, rejected))
        reference = sum(token_log_probs(base, chosen)) - sum(token_log_probs(base, rejected))
        terms.append(math.log1p(math.exp(-beta * (margin - reference))))
    total, count = objective.total(tuned, pairs)
    assert (total.item(), count) == (pytest.approx(sum(terms), rel=1e-4), 2)


def test_dpo_of_the_reference_itself_is_ln_2() -> None:
    model = tiny_model("llama")
    objective = DpoObjective(0, CPU, 0.5, batch_size=2)
    pairs = [(ROWS[0], ROWS[1])]
    objective.prepare(model, pairs)
    total, count = objective.total(model, pairs)
    assert total.item() / count == pytest.approx(math.log(2), rel=1e-5)
