"""Reading vectors on made-up residual streams whose answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lofit.activations.reading import principal_direction, reading_vectors
from lofit.activations.store import Activations
from lofit.errors import FitError

CONCEPT = np.array([0.6, 0.0, -0.8, 0.0, 0.0, 0.0])
HIDDEN = len(CONCEPT)


def made_up(strength: float = 3.0, train: int = 60, validation: int = 30) -> Activations:
    """2 layers; in layer 1 right answers lie further along CONCEPT than wrong ones, in layer 0 nothing does."""
    rng = np.random.default_rng(0)
    questions = [("train", train), ("validation", validation)]
    texts = pd.DataFrame(
        [(split, f"{split}{q}", 0, label) for split, n in questions for q in range(n) for label in (1, 0)],
        columns=["split", "row", "pair", "label"],
    )
    blocks = rng.standard_normal((2, len(texts), HIDDEN))
    blocks[1] += np.outer(np.where(texts["label"] == 1, strength / 2, -strength / 2), CONCEPT)
    return Activations(texts, np.zeros((2, len(texts), 1, 1), np.float32), blocks.astype(np.float32))


@pytest.mark.parametrize("kind", ["pca", "mean_difference"])
def test_the_concept_is_found_with_its_sign(kind: str) -> None:
    vectors = reading_vectors(made_up(), kind, seed=0)  # type: ignore[arg-type]
    np.testing.assert_allclose(np.linalg.norm(vectors.directions, axis=1), 1)
    assert vectors.directions[1] @ CONCEPT > 0.95
    assert vectors.accuracies[1] > 0.9
    assert vectors.accuracies[0] < 0.8
    assert vectors.norms[1] > vectors.norms[0] > 0


@pytest.mark.parametrize("seed", range(5))
def test_the_sign_does_not_depend_on_the_shuffling(seed: int) -> None:
    vectors = reading_vectors(made_up(), "pca", seed)
    assert vectors.directions[1] @ CONCEPT > 0.95


def test_without_shuffling_the_concept_is_centred_away() -> None:
    # The trap: with right always first, subtracting the mean difference removes the concept.
    rng = np.random.default_rng(1)
    differences = 5 * CONCEPT + rng.standard_normal((400, HIDDEN))
    unshuffled = principal_direction(differences, np.ones(400))
    shuffled = principal_direction(differences, np.where(rng.random(400) < 0.5, 1.0, -1.0))
    assert abs(unshuffled @ CONCEPT) < 0.6
    assert shuffled @ CONCEPT > 0.98


def test_the_principal_direction_equals_the_leading_eigenvector_of_the_covariance() -> None:
    rng = np.random.default_rng(2)
    differences = 2 * CONCEPT + rng.standard_normal((50, HIDDEN)) * np.linspace(1, 2, HIDDEN)
    flips = np.where(rng.random(50) < 0.5, 1.0, -1.0)
    flipped = differences * flips[:, None]
    values, vectors = np.linalg.eigh(np.cov(flipped.T))
    expected = vectors[:, values.argmax()]
    found = principal_direction(differences, flips)
    assert abs(found @ expected) == pytest.approx(1)
    assert (differences @ found > 0).sum() >= 25


@pytest.mark.parametrize(("train", "validation"), [(1, 5), (5, 0)])
def test_too_few_pairs_are_refused(train: int, validation: int) -> None:
    with pytest.raises(FitError, match="reading vectors need 2 training pairs and 1 validation pair"):
        reading_vectors(made_up(train=train, validation=validation), "pca", 0)
