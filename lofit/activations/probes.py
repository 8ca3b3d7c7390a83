"""Linear probes of attention heads, and the directions along which ITI shifts them.

Source: Li et al. 2023, Inference-Time Intervention (arXiv 2306.03341), sections 3 and 4; likenneth/honest_llama.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lofit.activations.names import Direction
from lofit.activations.store import Activations
from lofit.errors import FitError


@dataclass(frozen=True)
class ProbeScores:
    """How well the probes of all heads tell right from wrong answers to the validation questions.

    Attributes:
        accuracies: float64 [layers, query heads], in [0, 1]; with few texts, many heads share one.
        log_losses: float64 [layers, query heads], mean of -log p(label) in nats; lower is better.
    """

    accuracies: np.ndarray
    log_losses: np.ndarray


def probe_scores(activations: Activations, seed: int) -> ProbeScores:
    """Compute the validation accuracy and log-loss of a logistic-regression probe on every head.

    Each probe (scikit-learn's defaults: L2 penalty, C = 1, up to 1,000 iterations; raw activations) is trained to
    classify right and wrong answers to the training questions, and scored on those to the validation questions.

    Raises:
        FitError: the training texts are all right or all wrong, or there are no validation texts.
    """
    train, held_out = activations.among("train"), activations.among("validation")
    if not held_out.any():
        raise FitError("probes are chosen on validation texts and there are none; raise n_validation")
    n_layers, _, n_heads, _ = activations.heads.shape
    accuracies, log_losses = np.zeros((2, n_layers, n_heads))
    labels = activations.labels[held_out]
    for layer in range(n_layers):
        values = np.asarray(activations.heads[layer], dtype=np.float64)
        for head in range(n_heads):
            probe = _fit_probe(values[train, head], activations.labels[train], seed)
            log_odds = probe.decision_function(values[held_out, head])
            accuracies[layer, head] = np.mean((log_odds > 0) == labels)
            # Of the log-odds, since a probability that is rounded to 0 has no finite logarithm.
            log_losses[layer, head] = np.logaddexp(0, np.where(labels == 1, -log_odds, log_odds)).mean()
    return ProbeScores(accuracies, log_losses)


def _fit_probe(values: np.ndarray, labels: np.ndarray, seed: int):  # type: ignore[no-untyped-def]
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(set(labels.tolist())) < 2:
        raise FitError("the training texts are all right or all wrong; a probe needs both")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few texts in many dimensions are separable
        return LogisticRegression(max_iter=1000, random_state=seed).fit(values, labels)


def head_directions(
    activations: Activations, heads: Sequence[tuple[int, int]], kind: Direction, seed: int
) -> np.ndarray:
    """Estimate a direction from wrong towards right for each head, as a unit vector.

    ``mass_mean``: mean of right minus mean of wrong, answer-pooled, so that questions with more answers weigh more.
    ``probe``: weights of the head's probe. Both use the training texts only, since the strength of the shift is chosen
    on the validation questions. ``random``: normal, independent of the activations.

    Returns:
        float64 [heads, head dimension].

    Raises:
        FitError: a direction is zero.
    """
    labels, train = activations.labels, activations.among("train")
    generator = np.random.default_rng(seed)
    directions = []
    for layer, head in heads:
        values = np.asarray(activations.heads[layer, :, head], dtype=np.float64)
        if kind == "mass_mean":
            direction = values[train & (labels == 1)].mean(0) - values[train & (labels == 0)].mean(0)
        elif kind == "probe":
            direction = _fit_probe(values[train], labels[train], seed).coef_[0]
        else:
            direction = generator.standard_normal(values.shape[1])
        length = np.linalg.norm(direction)
        if not (np.isfinite(length) and length > 0):
            raise FitError(f"the direction of head L{layer}H{head} is zero or not finite")
        directions.append(direction / length)
    return np.stack(directions)


def projection_spread(
    activations: Activations, heads: Sequence[tuple[int, int]], directions: np.ndarray, ddof: int
) -> np.ndarray:
    """Compute the standard deviation (sigma) of the training texts' projections on each head's direction.

    Args:
        activations: activations of one split.
        heads: n heads.
        directions: float [n, head dimension], unit vectors.
        ddof: 0 for the population standard deviation, 1 for that of the sample.

    Returns:
        float64 [n].
    """
    train = activations.among("train")
    spreads = [
        np.std(np.asarray(activations.heads[layer, train, head], dtype=np.float64) @ direction, ddof=ddof)
        for (layer, head), direction in zip(heads, directions, strict=True)
    ]
    return np.array(spreads)
