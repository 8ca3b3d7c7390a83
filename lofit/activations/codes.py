"""Discrete codes of head activations, and how likely a sequence of codes is: the networks of REAL (arXiv 2506.08359).

The heads of one layer are trained side by side, each with weights of its own: every tensor begins with the dimension of
the heads, losses are summed over it, and no gradient passes from one head to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional

TEMPERATURE = 0.07
COMMITMENT = 0.25
DECAY = 0.99
EPSILON = 1e-5
HIDDEN = 64
"""Constants of the authors' code (liam0949/REAL_ICLR at c93c04f, validation/OneForAll.py)."""


class Linears(nn.Module):
    """One linear map per head, [heads, texts, into] to [heads, texts, out], that starts as ``nn.Linear`` does."""

    def __init__(self, heads: int, into: int, out: int, generator: torch.Generator) -> None:
        super().__init__()

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter((torch.rand(shape, generator=generator) * 2 - 1) * into**-0.5)

        self.weight, self.bias = uniform(heads, into, out), uniform(heads, 1, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply each head's map to its rows."""
        return torch.baddbmm(self.bias, x, self.weight)


class Autoencoders(nn.Module):
    """One autoencoder per head, whose middle is ``length`` vectors that are rounded to the head's codebook.

    Args:
        heads, width: heads of the layer, and their dimension.
        codes: size of the codebook.
        length: number of codes of one activation.
        generator: generator of the initial values.
    """

    def __init__(self, heads: int, width: int, codes: int, length: int, generator: torch.Generator) -> None:
        super().__init__()
        self.length, self.codes = length, codes
        self.size = max(1, width // 2 // length)
        middle = length * self.size

        def map_to(into: int, out: int) -> nn.Module:
            first, last = Linears(heads, into, width, generator), Linears(heads, width, out, generator)
            return nn.Sequential(first, nn.LeakyReLU(0.01), last)

        self.encoder, self.decoder = map_to(width, middle), map_to(middle, width)
        self.codebook = torch.randn(heads, codes, self.size, generator=generator)
        self._sums, self._counts = self.codebook.clone(), torch.zeros(heads, codes)

    def nearest(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode activations.

        Args:
            x: float32 [heads, texts, width].

        Returns:
            The vectors before rounding, float32 [heads, texts * length, size], and the nearest code of each, int64.
        """
        vectors = self.encoder(x).unflatten(-1, (self.length, self.size)).flatten(1, 2)
        return vectors, torch.cdist(vectors.detach(), self.codebook).argmin(-1)

    def losses(self, x: torch.Tensor, labels: torch.Tensor, contrast: float) -> torch.Tensor:
        """Compute the loss of each head on a batch: float32 [heads].

        The loss is reconstruction, commitment to the codebook, and supervised contrast of the rounded vectors. The
        codebook is not trained by it, but follows the mean of the vectors that are rounded to each code.
        """
        vectors, nearest = self.nearest(x)
        rounded = self.codebook.gather(1, nearest[..., None].expand(-1, -1, self.size))
        used = functional.one_hot(nearest, self.codes).float()
        self._follow(used, vectors.detach())
        straight = (vectors + (rounded - vectors).detach()).unflatten(1, (-1, self.length)).flatten(2)
        reconstruction = (self.decoder(straight) - x).square().mean((1, 2))
        commitment = COMMITMENT * (rounded - vectors).square().mean((1, 2))
        return reconstruction + commitment + contrast * contrastive(straight, labels)

    def _follow(self, used: torch.Tensor, vectors: torch.Tensor) -> None:
        """Move the codebook to the moving averages of what is rounded to its codes."""
        self._counts.lerp_(used.sum(1), 1 - DECAY)
        self._sums.lerp_(used.transpose(1, 2) @ vectors, 1 - DECAY)
        total = self._counts.sum(-1, keepdim=True)
        smoothed = (self._counts + EPSILON) / (total + self.codes * EPSILON) * total
        self.codebook = self._sums / smoothed[..., None]


def contrastive(vectors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute the supervised contrastive loss of each head (Khosla et al. 2020, eq. 2): float32 [heads].

    A text is not compared with itself; in the authors' code it is part of the sum in the denominator.

    Args:
        vectors: float32 [heads, texts, size].
        labels: int64 [texts].
    """
    if len(labels) < 2:
        return torch.zeros(len(vectors))
    unit = functional.normalize(vectors, dim=-1)
    similar = unit @ unit.transpose(1, 2) / TEMPERATURE
    others = ~torch.eye(len(labels), dtype=torch.bool)
    same = (labels[:, None] == labels) & others
    log_shares = similar - similar.masked_fill(~others, -torch.inf).logsumexp(-1, keepdim=True)
    return -((log_shares * same).sum(-1) / same.sum(-1).clamp_min(1)).mean(-1)


def fit_codes(
    x: torch.Tensor,
    labels: torch.Tensor,
    generator: torch.Generator,
    *,
    codes: int,
    length: int,
    epochs: int,
    lr: float,
    batch_size: int,
    contrast: float,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Train the autoencoders of one layer's heads with Adam.

    Args:
        x: float32 [heads, texts, width].
        labels: int64 [texts].
        generator: generator of everything random.
        codes: size of a head's codebook.
        length: number of codes of one activation.
        epochs: passes over the texts.
        lr: learning rate.
        batch_size: texts in one step.
        contrast: weight of :func:`contrastive`.

    Returns:
        A function from activations [heads, texts, width] to codes, int64 [heads, texts, length].
    """
    model = Autoencoders(len(x), x.shape[-1], codes, length, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        for rows in _batches(x.shape[1], batch_size, generator):
            optimizer.zero_grad()
            model.losses(x[:, rows], labels[rows], contrast).sum().backward()
            optimizer.step()

    @torch.no_grad()
    def encode(values: torch.Tensor) -> torch.Tensor:
        return model.nearest(values)[1].unflatten(-1, (values.shape[1], length))

    return encode


class Priors(nn.Module):
    """One autoregressive model of code sequences per head: a GRU that sees the codes before the one it predicts."""

    def __init__(self, heads: int, codes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.start = codes
        self.embedding = nn.Parameter(torch.randn(heads, codes + 1, HIDDEN, generator=generator))
        self.inner, self.outer = (Linears(heads, HIDDEN, 3 * HIDDEN, generator) for _ in range(2))
        self.output = Linears(heads, HIDDEN, codes, generator)

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        """Compute the mean log-probability of the codes of each sequence: float32 [heads, texts].

        Args:
            sequences: int64 [heads, texts, length].
        """
        heads, texts, length = sequences.shape
        before = functional.pad(sequences[..., :-1], (1, 0), value=self.start)
        rows = before.flatten(1)[..., None].expand(-1, -1, HIDDEN)
        inputs = self.outer(self.embedding.gather(1, rows)).unflatten(1, (texts, length))
        state, states = torch.zeros(heads, texts, HIDDEN), []
        for at in range(length):
            reset, update, new = inputs[:, :, at].chunk(3, -1)
            old_reset, old_update, old_new = self.inner(state).chunk(3, -1)
            keep = torch.sigmoid(update + old_update)
            candidate = torch.tanh(new + torch.sigmoid(reset + old_reset) * old_new)
            state = (1 - keep) * candidate + keep * state
            states.append(state)
        logits = self.output(torch.stack(states, 2).flatten(1, 2)).log_softmax(-1)
        return logits.gather(-1, sequences.flatten(1)[..., None]).view(heads, texts, length).mean(-1)


def fit_prior(
    sequences: torch.Tensor, generator: torch.Generator, *, codes: int, epochs: int, lr: float, batch_size: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Train a model of code sequences for each head with AdamW.

    Args:
        sequences: int64 [heads, texts, length].
        generator: generator of everything random.
        codes: size of a head's codebook.
        epochs: passes over the sequences.
        lr: learning rate.
        batch_size: sequences in one step.

    Returns:
        A function from sequences [heads, texts, length] to their mean log-probabilities, float32 [heads, texts].
    """
    model = Priors(len(sequences), codes, generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    for _ in range(epochs):
        for rows in _batches(sequences.shape[1], batch_size, generator):
            optimizer.zero_grad()
            (-model(sequences[:, rows]).mean(-1)).sum().backward()
            _clip(model, 1.0)
            optimizer.step()
    return torch.no_grad()(model.forward)


def _clip(model: nn.Module, most: float) -> None:
    """Clip the norm of each head's gradient."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    factors = (most / (norms + 1e-6)).clamp_max(1)
    for gradient in gradients:
        gradient *= factors[:, None, None]


def _batches(texts: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield the numbers of the texts of each batch, in random order."""
    yield from torch.randperm(texts, generator=generator).split(size)
