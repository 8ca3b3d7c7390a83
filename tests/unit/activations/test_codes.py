"""The networks of REAL against torch's own, head by head, and that they find the head that knows."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from lofit.activations.codes import HIDDEN, Autoencoders, Priors, contrastive, fit_codes, fit_prior
from lofit.localizers.real import Params

HEADS, TEXTS, WIDTH, CODES, LENGTH = 3, 10, 16, 5, 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_prior_of_a_head_is_a_gru_that_sees_the_codes_before() -> None:
    priors = Priors(HEADS, CODES, generator())
    sequences = torch.randint(CODES, (HEADS, TEXTS, LENGTH), generator=generator(1))
    found = priors(sequences)
    for head in range(HEADS):
        gru = nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        gru.weight_ih_l0.data, gru.bias_ih_l0.data = priors.outer.weight[head].T, priors.outer.bias[head, 0]
        gru.weight_hh_l0.data, gru.bias_hh_l0.data = priors.inner.weight[head].T, priors.inner.bias[head, 0]
        before = torch.cat([torch.full((TEXTS, 1), CODES), sequences[head, :, :-1]], 1)
        states, _ = gru(priors.embedding[head, before])
        logits = states @ priors.output.weight[head] + priors.output.bias[head]
        expected = -functional.cross_entropy(logits.flatten(0, 1), sequences[head].flatten(), reduction="none")
        assert_close(found[head], expected.view(TEXTS, LENGTH).mean(1))


def test_the_loss_of_a_head_by_hand() -> None:
    model = Autoencoders(HEADS, WIDTH, CODES, LENGTH, generator())
    x, labels = torch.randn(HEADS, TEXTS, WIDTH, generator=generator(1)), torch.tensor([0, 1] * (TEXTS // 2))
    codebook = model.codebook.clone()
    losses = model.losses(x, labels, contrast=0.1)
    for head in range(HEADS):

        def through(layers: Any, value: torch.Tensor, head: int = head) -> torch.Tensor:
            first, _, last = layers
            inner = functional.leaky_relu(value @ first.weight[head] + first.bias[head], 0.01)
            return inner @ last.weight[head] + last.bias[head]

        vectors = through(model.encoder, x[head]).view(-1, WIDTH // 2 // LENGTH)
        nearest = (vectors[:, None] - codebook[head]).square().sum(-1).argmin(-1)
        rounded = codebook[head, nearest]
        decoded = through(model.decoder, rounded.view(TEXTS, -1))
        expected = functional.mse_loss(decoded, x[head]) + 0.25 * functional.mse_loss(vectors, rounded)
        expected = expected + 0.1 * contrastive(rounded.view(1, TEXTS, -1), labels)[0]
        assert_close(losses[head], expected)
        counts = 0.01 * torch.bincount(nearest, minlength=CODES)
        sums = 0.99 * codebook[head]
        for code, vector in zip(nearest.tolist(), vectors.detach(), strict=True):
            sums[code] += 0.01 * vector
        smoothed = (counts + 1e-5) / (counts.sum() + CODES * 1e-5) * counts.sum()
        assert_close(model.codebook[head], sums / smoothed[:, None])


def test_contrast_is_low_where_texts_of_a_label_are_alike() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    apart, mixed = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]), torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    low, high = contrastive(torch.stack([apart, mixed]), labels)
    scale = 1 / 0.07
    partition = torch.tensor([scale, 0.0, 0.0]).logsumexp(0)
    assert_close(low, partition - scale)
    assert_close(high, partition)
    assert contrastive(apart[None, :1], labels[:1]).tolist() == [0.0]


def test_heads_do_not_see_each_other() -> None:
    """Two heads with the same initial values and data, beside others that differ, end alike."""
    x = torch.randn(2, TEXTS, WIDTH, generator=generator(1))
    found = []
    for scale in (1.0, 50.0):
        other = torch.stack([x[0], scale * x[1]])
        settings = {"codes": CODES, "length": LENGTH, "epochs": 3, "lr": 0.01, "batch_size": 4}
        labels = torch.tensor([0, 1] * (TEXTS // 2))
        codes = fit_codes(other, labels, generator(), **settings, contrast=0.1)(other)
        prior = fit_prior(
            codes[:1].repeat(2, 1, 1) if scale == 1 else codes,
            generator(),
            codes=CODES,
            epochs=2,
            lr=0.01,
            batch_size=4,
        )
        found.append((codes[0], prior(codes)[0]))
    assert torch.equal(found[0][0], found[1][0])
    assert_close(found[0][1], found[1][1])


def test_the_head_that_knows_the_answer_is_told_from_noise() -> None:
    """With the published hyperparameters."""
    params, texts = Params(), 400
    labels = torch.arange(texts) % 2
    x = torch.randn(HEADS, texts, 64, generator=generator(1))
    x[1] += labels[:, None]
    settings = params.model_dump(exclude={"prior_epochs", "prior_lr"})
    codes = fit_codes(x[:, :300], labels[:300], generator(), **settings)(x)
    assert codes.shape == (HEADS, texts, 8)
    right, wrong = (
        fit_prior(codes[:, :300][:, labels[:300] == side], generator(), codes=32, epochs=10, lr=1e-3, batch_size=32)
        for side in (1, 0)
    )
    ratios = (right(codes) - wrong(codes))[:, 300:]
    accuracy = ((ratios > 0) == (labels[300:] == 1)).float().mean(1)
    assert accuracy[1] > 0.9
    assert max(accuracy[0], accuracy[2]) < 0.7
