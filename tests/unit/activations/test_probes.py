"""Probes and directions on made-up activations whose answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from lofit.activations.probes import head_directions, probe_scores, projection_spread
from lofit.activations.store import Activations
from lofit.errors import FitError
from lofit.rankings.ranking import rank_heads

QUESTIONS = 60


def made_up(seed: int = 0) -> Activations:
    """2 layers x 3 heads of width 4; head (1, 2) separates right from wrong along its second axis, no other does."""
    rng = np.random.default_rng(seed)
    texts = pd.DataFrame(
        [("train" if q < 40 else "validation", q, 0, label) for q in range(QUESTIONS) for label in (1, 0)],
        columns=["split", "row", "pair", "label"],
    )
    heads = rng.standard_normal((2, len(texts), 3, 4)).astype(np.float32)
    heads[1, :, 2, 1] += np.where(texts["label"] == 1, 4.0, -4.0)
    return Activations(texts, heads, rng.standard_normal((2, len(texts), 5)).astype(np.float32))


def test_the_head_that_knows_is_found_and_the_others_are_at_chance() -> None:
    accuracies = probe_scores(made_up(), seed=0).accuracies
    assert accuracies.shape == (2, 3)
    assert accuracies[1, 2] == 1.0
    others = np.delete(accuracies.ravel(), 5)
    assert (others < 0.75).all()


def test_probes_never_learn_from_validation_texts() -> None:
    activations = made_up()
    flipped = activations.texts.copy()
    held_out = activations.among("validation")
    flipped.loc[held_out, "label"] = 1 - flipped.loc[held_out, "label"]
    other = Activations(flipped, activations.heads, activations.blocks)
    one, two = probe_scores(activations, 0), probe_scores(other, 0)
    np.testing.assert_allclose(two.accuracies, 1 - one.accuracies)
    assert (two.log_losses[1, 2] > one.log_losses[1, 2] + 1).all()


def test_log_losses_are_those_of_the_same_probes() -> None:
    activations = made_up()
    train, held_out = activations.among("train"), activations.among("validation")
    found = probe_scores(activations, 0)
    for layer, head in ((0, 1), (1, 2)):
        values = activations.heads[layer, :, head].astype(np.float64)
        probe = LogisticRegression(max_iter=1000, random_state=0).fit(values[train], activations.labels[train])
        chances = probe.predict_proba(values[held_out])
        assert found.log_losses[layer, head] == pytest.approx(log_loss(activations.labels[held_out], chances))
        assert found.accuracies[layer, head] == probe.score(values[held_out], activations.labels[held_out])


def test_of_heads_that_are_always_right_the_surer_one_is_better() -> None:
    activations = made_up()
    heads = activations.heads.copy()
    sign = np.where(activations.labels == 1, 1.0, -1.0)
    for head, distance in enumerate((6.0, 30.0, 12.0)):
        heads[0, :, head, 0] += distance * sign
    found = probe_scores(Activations(activations.texts, heads, activations.blocks), 0)
    assert found.accuracies[0].tolist() == [1, 1, 1]
    assert np.argsort(found.log_losses[0]).tolist() == [1, 2, 0]
    frame = rank_heads(found.accuracies, -found.log_losses)
    assert frame["head"][frame["layer"] == 0].tolist() == [1, 2, 0]


@pytest.mark.parametrize("kind", ["mass_mean", "probe"])
def test_estimated_directions_point_from_wrong_to_right(kind: str) -> None:
    (direction,) = head_directions(made_up(), [(1, 2)], kind, seed=0)  # type: ignore[arg-type]
    assert np.linalg.norm(direction) == pytest.approx(1)
    assert direction[1] > 0.95


def test_mass_mean_is_the_difference_of_means_over_the_training_texts() -> None:
    activations = made_up()
    train = activations.among("train")
    values, labels = activations.heads[0, train, 1].astype(np.float64), activations.labels[train]
    right = [value for value, label in zip(values, labels, strict=True) if label]
    wrong = [value for value, label in zip(values, labels, strict=True) if not label]
    expected = sum(right) / len(right) - sum(wrong) / len(wrong)
    (direction,) = head_directions(activations, [(0, 1)], "mass_mean", seed=0)
    np.testing.assert_allclose(direction, expected / np.sqrt((expected**2).sum()))


def test_random_directions_are_seeded_unit_vectors_that_ignore_the_activations() -> None:
    heads = [(0, 0), (1, 2)]
    first, again, other = (head_directions(made_up(a), heads, "random", seed=s) for a, s in ((0, 1), (5, 1), (0, 2)))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1)


@pytest.mark.parametrize("ddof", [0, 1])
def test_sigma_is_the_spread_of_the_projections(ddof: int) -> None:
    activations, heads = made_up(), [(0, 1), (1, 2)]
    directions = head_directions(activations, heads, "mass_mean", seed=0)
    sigma = projection_spread(activations, heads, directions, ddof)
    for (layer, head), direction, found in zip(heads, directions, sigma, strict=True):
        train = activations.heads[layer, activations.among("train"), head]
        projected = [float(np.dot(z.astype(np.float64), direction)) for z in train]
        mean = sum(projected) / len(projected)
        expected = (sum((p - mean) ** 2 for p in projected) / (len(projected) - ddof)) ** 0.5
        assert found == pytest.approx(expected)


def test_without_validation_texts_there_is_nothing_to_choose_by() -> None:
    activations = made_up()
    train = activations.among("train")
    only = Activations(activations.texts[train], activations.heads[:, train], activations.blocks[:, train])
    with pytest.raises(FitError, match="raise n_validation"):
        probe_scores(only, 0)


def test_one_sided_texts_and_directions_of_length_zero_are_refused() -> None:
    activations = made_up()
    right = Activations(activations.texts.assign(label=1), activations.heads, activations.blocks)
    with pytest.raises(FitError, match="all right or all wrong"):
        probe_scores(right, 0)
    flat = Activations(activations.texts, np.zeros_like(activations.heads), activations.blocks)
    with pytest.raises(FitError, match="L1H2 is zero"):
        head_directions(flat, [(1, 2)], "mass_mean", 0)


def test_validation_texts_play_no_part_in_directions_and_spreads() -> None:
    activations = made_up()
    other = activations.heads.copy()
    other[:, activations.among("validation")] += 5
    moved = Activations(activations.texts, other, activations.blocks)
    for kind in ("mass_mean", "probe"):
        one, two = (head_directions(given, [(1, 2)], kind, 0) for given in (activations, moved))  # type: ignore[arg-type]
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(
            projection_spread(activations, [(1, 2)], one, 0), projection_spread(moved, [(1, 2)], two, 0)
        )
