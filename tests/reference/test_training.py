"""LoFiT's two steps as the package runs them, against a training loop that shares no code with it.

The loop below is written from methods' descriptions: AdamW (0.9, 0.999, 1e-8), linear decay to zero, clipping of the
gradient norm at 1, token-mean cross-entropy of answer and end-of-sequence, the sum of absolute values as penalty.
Models are edited through tests.by_hand, one example at a time, without padding.
"""

from __future__ import annotations

import math

import pytest
import torch

from lofit.interventions import LofitConfig
from lofit.localizers import load_localizer
from lofit.methods import load_method
from lofit.rankings.ranking import rank_heads
from lofit.training.trainer import train
from tests.by_hand import edited, vectors_of
from tests.checkpoint import byte_tokenizer
from tests.sessions import fit_context, session
from tests.tiny import tiny_model

FAMILIES = ("llama", "gemma", "qwen2", "gpt2", "phi", "opt")
BATCH, EPOCHS = 4, 3
HEADS = [(0, 3), (2, 1)]


def train_by_hand(family: str, kind: str, start: dict, lr: float, penalty: float) -> tuple[dict, list[float]]:
    """Trained vectors by (layer, head), and the loss at every step."""
    model = tiny_model(family, vocab_size=259).requires_grad_(False)
    tokenizer, opened = byte_tokenizer(), session(family)
    leaves = {pair: vector.clone().requires_grad_() for pair, vector in start.items()}
    moments = {pair: (torch.zeros_like(v), torch.zeros_like(v)) for pair, v in leaves.items()}
    generator = torch.Generator().manual_seed(opened.seed)
    steps, losses = EPOCHS * math.ceil(len(opened.train) / BATCH), []
    for _ in range(EPOCHS):
        order = torch.randperm(len(opened.train), generator=generator).tolist()
        drawn = [order[begin : begin + BATCH] for begin in range(0, len(order), BATCH)]
        sizes = [sum(len(opened.train[i]["prompt"] + opened.train[i]["target"]) for i in batch) for batch in drawn]
        drawn.insert(0, drawn.pop(sizes.index(max(sizes))))
        for batch in drawn:
            terms = []
            with edited(model, family, leaves if kind == "scale" else {}, leaves if kind == "offset" else {}):
                for index in batch:
                    row = opened.train[index]
                    prompt = tokenizer(row["prompt"])["input_ids"]
                    answer = [*tokenizer(row["target"])["input_ids"], tokenizer.eos_token_id]
                    scores = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
                    terms += [-scores[len(prompt) + i - 1, token] for i, token in enumerate(answer)]
            loss = sum(terms) / len(terms) + penalty * sum(vector.abs().sum() for vector in leaves.values())
            losses.append(float(loss.detach()))
            gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
            norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
            step = len(losses)
            rate = lr * (1 - (step - 1) / steps)
            for pair, gradient in gradients.items():
                gradient = gradient * min(1.0, 1.0 / (norm + 1e-6))
                first, second = moments[pair]
                first = 0.9 * first + 0.1 * gradient
                second = 0.999 * second + 0.001 * gradient**2
                moments[pair] = first, second
                change = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
                leaves[pair] = (leaves[pair] - rate * change).detach().requires_grad_()
    return {pair: vector.detach() for pair, vector in leaves.items()}, losses


def initial(family: str, config: LofitConfig, kind: str) -> dict:
    from peft import get_peft_model

    return vectors_of(get_peft_model(tiny_model(family, vocab_size=259), config), family, kind)


@pytest.mark.parametrize("family", FAMILIES)
def test_step_a_ranks_heads_as_the_loop_by_hand(family: str) -> None:
    localizer = load_localizer("lofit")
    params = localizer.Params(lr=5e-3, l1=1e-3, epochs=EPOCHS, batch_size=BATCH)
    scores = localizer.score(fit_context(session(family)), params)
    start = initial(family, LofitConfig(scale=True, init_std=1e-3, init_seed=3), "scale")
    vectors, losses = train_by_hand(family, "scale", start, lr=5e-3, penalty=1e-3)
    assert scores.record["train_loss"] == pytest.approx(losses, rel=1e-3)
    expected = {pair: float(vector.norm()) for pair, vector in vectors.items()}
    for (layer, head), norm in expected.items():
        assert scores.values[layer, head] == pytest.approx(norm, rel=0.02)
    best = rank_heads(scores.values)
    by_hand = sorted(expected, key=lambda pair: -expected[pair])
    assert set(zip(best["layer"][:4], best["head"][:4], strict=True)) == set(by_hand[:4])


@pytest.mark.parametrize("family", FAMILIES)
def test_step_v_trains_the_offsets_of_the_loop_by_hand(family: str) -> None:
    method = load_method("lofit")
    params = method.Params(lr=1e-2, epochs=EPOCHS, batch_size=BATCH)
    config = LofitConfig(heads=HEADS, scale=False, offset=True, init_std=1e-3, init_seed=3)
    start = initial(family, config, "offset")
    fitted = train(session(family), config, params, "t")
    vectors, losses = train_by_hand(family, "offset", start, lr=1e-2, penalty=0.0)
    assert fitted.record["train_loss"] == pytest.approx(losses, rel=1e-3)
    found = vectors_of(fitted.model, family, "offset")
    assert set(found) == set(HEADS)
    for pair, vector in vectors.items():
        assert (found[pair] - vector).norm() <= 0.02 * vector.norm()
        assert (vector - start[pair]).norm() > 0.5 * vector.norm(), "the offsets have moved"
