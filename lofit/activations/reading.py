"""Reading vectors of the residual stream: the direction in each layer along which right and wrong answers differ.

Source: Zou et al. 2023, Representation Engineering (arXiv 2310.01405), section 3; andyzoujm/representation-engineering.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lofit.activations.names import Reading
from lofit.activations.store import Activations
from lofit.errors import FitError


@dataclass(frozen=True)
class ReadingVectors:
    """One unit vector per layer, pointing from wrong towards right.

    Attributes:
        directions: float64 [layers, hidden size].
        accuracies: float64 [layers], share of validation pairs in which the right text projects further.
        norms: float64 [layers], mean length of the residual stream over the training texts.
    """

    directions: np.ndarray
    accuracies: np.ndarray
    norms: np.ndarray


def reading_vectors(activations: Activations, kind: Reading, seed: int) -> ReadingVectors:
    """Estimate the reading vectors on training pairs and score them on validation pairs.

    ``pca``: first principal component of the differences within pairs. The order within each pair is shuffled first: if
    right always came first, centering the differences would remove the very direction to be found. The sign is the one
    with which the right text projects further in most training pairs. ``mean_difference``: mean of right minus mean of
    wrong, normalized.

    Raises:
        FitError: there are fewer than 2 training pairs or no validation pair, or a direction is zero.
    """
    train, held_out = activations.pairs("train"), activations.pairs("validation")
    if len(train) < 2 or not len(held_out):
        raise FitError(
            f"reading vectors need 2 training pairs and 1 validation pair, found {len(train)} and {len(held_out)}; "
            "raise n_train or n_validation"
        )
    rng, flips = np.random.default_rng(seed), np.ones(len(train))
    while abs(flips.sum()) == len(train):  # with few pairs, all flips may be the same
        flips = np.where(rng.random(len(train)) < 0.5, -1.0, 1.0)
    directions: list[np.ndarray] = []
    accuracies, norms = [], []
    for values in activations.blocks:
        values = np.asarray(values, dtype=np.float64)
        differences = values[train[:, 0]] - values[train[:, 1]]
        direction = principal_direction(differences, flips) if kind == "pca" else differences.mean(0)
        length = np.linalg.norm(direction)
        if not (np.isfinite(length) and length > 0):
            raise FitError(f"the reading vector of layer {len(directions)} is zero or not finite")
        direction = direction / length
        directions.append(direction)
        accuracies.append(np.mean((values[held_out[:, 0]] - values[held_out[:, 1]]) @ direction > 0))
        norms.append(np.linalg.norm(values[train.ravel()], axis=1).mean())
    return ReadingVectors(np.stack(directions), np.array(accuracies), np.array(norms))


def principal_direction(differences: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """Compute the first principal component of the flipped differences, signed towards right.

    Args:
        differences: float64 [pairs, hidden size], right minus wrong.
        flips: float64 [pairs], 1 where right comes first in its pair and -1 where wrong does.

    Returns:
        float64 [hidden size]; if as many pairs project to either side, the sign of the component is kept.
    """
    from sklearn.decomposition import PCA

    component: np.ndarray = PCA(n_components=1, svd_solver="full").fit(differences * flips[:, None]).components_[0]
    projected = differences @ component
    return component if (projected > 0).sum() >= (projected < 0).sum() else -component
