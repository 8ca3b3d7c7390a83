"""Gradients of the two LoFiT steps against derivations that share no code with the package.

Step 1 trains the scaling factors of all heads on the token-mean cross-entropy of the answer plus the *sum* of absolute
values; step 2 trains the offsets of selected heads on the cross-entropy alone (fc2869/lo-fit, utils/trainers.py).
"""

import pytest
import torch
from peft import get_peft_model
from torch.testing import assert_close

from lofit.interventions import LofitConfig
from tests.by_hand import edited, vectors_of
from tests.tiny import tiny_model, tiny_tokens

TOKENS = tiny_tokens(batch=2, length=8, seed=5)
ANSWER_STARTS = (3, 5)  # answers of different length, so a mean per sequence would differ from the mean per token
PENALTY = 5e-3
HEADS = [(0, 3), (1, 0), (2, 1), (2, 2)]


def labels():
    marked = TOKENS.clone()
    for row, start in enumerate(ANSWER_STARTS):
        marked[row, :start] = -100
    return marked


def loss_by_hand(model, family, scales, offsets, penalty):
    """Minus the mean log-probability of the answer tokens, plus penalty times the sum of |a|, token by token."""
    with edited(model, family, scales, offsets):
        logits = model(TOKENS).logits
    terms = []
    for row, start in enumerate(ANSWER_STARTS):
        for position in range(start, TOKENS.shape[1]):
            scores = logits[row, position - 1]
            terms.append(torch.logsumexp(scores, dim=0) - scores[TOKENS[row, position]])
    cost = sum(terms) / len(terms)
    for vector in scales.values():
        for value in vector:
            cost = cost + penalty * value.abs()
    return cost


def tuner_loss_and_gradients(family, config, penalty):
    """Loss and gradients by (layer, head) of the package's adapter on a float64 model."""
    model = get_peft_model(tiny_model(family).double(), config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = model(input_ids=TOKENS, labels=labels()).loss + penalty * sum(p.abs().sum() for p in trained)
    loss.backward()
    kind = "scale" if config.scale else "offset"
    values = vectors_of(model, family, kind)
    for parameter in trained:
        parameter.data.copy_(parameter.grad)
    return float(loss.detach()), values, vectors_of(model, family, kind)


STEPS = {
    "scaling factors of all heads": (LofitConfig(heads=None, scale=True, offset=False, init_std=0.3), PENALTY),
    "offsets of selected heads": (LofitConfig(heads=HEADS, scale=False, offset=True, init_std=0.3), 0.0),
}


def cost_by_hand(family, config, penalty):
    model = tiny_model(family).double().requires_grad_(False)

    def cost(vectors):
        scales, offsets = (vectors, {}) if config.scale else ({}, vectors)
        return loss_by_hand(model, family, scales, offsets, penalty)

    return cost


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("family", ["llama", "gemma", "qwen2", "gpt2", "phi"])
def test_gradients_equal_autograd_through_the_formula(family, step):
    config, penalty = STEPS[step]
    loss, values, gradients = tuner_loss_and_gradients(family, config, penalty)
    leaves = {pair: vector.double().requires_grad_() for pair, vector in values.items()}
    by_hand = cost_by_hand(family, config, penalty)(leaves)
    by_hand.backward()
    assert loss == pytest.approx(by_hand.item(), rel=1e-6)
    assert set(gradients) == set(leaves)
    for pair, leaf in leaves.items():
        assert leaf.grad.abs().max() > 1e-4
        assert_close(gradients[pair].double(), leaf.grad, rtol=1e-4, atol=1e-6)


# The norms of these families stay in float64; the RMS norms of Llama and its kin round to float32 on the way.
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("family", ["gpt2", "phi"])
def test_gradients_equal_finite_differences(family, step):
    config, penalty = STEPS[step]
    _, values, gradients = tuner_loss_and_gradients(family, config, penalty)
    cost, width = cost_by_hand(family, config, penalty), 1e-5
    for pair, element in [(HEADS[0], 0), (HEADS[1], 5), (HEADS[2], 2), (HEADS[3], 7)]:
        sides = []
        for sign in (1, -1):
            moved = {at: vector.double() for at, vector in values.items()}
            moved[pair][element] += sign * width
            with torch.no_grad():
                sides.append(cost(moved))
        slope = (sides[0] - sides[1]) / (2 * width)
        assert abs(slope) > 1e-4
        assert_close(gradients[pair][element].double(), slope, rtol=1e-4, atol=1e-7)
