"""Every localizer scores every head, repeats itself, and does what its name says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lofit.activations import probes
from lofit.activations.probes import ProbeScores
from lofit.interventions import LofitConfig
from lofit.localizers import load_localizer, localizer_names
from lofit.localizers.lofit import shuffled
from lofit.models.damage import Damage, damaged
from lofit.rankings.ranking import rank_heads
from lofit.spec.hyperparameters import LossParams
from lofit.training.context import FitContext
from lofit.training.trainer import Validation, train
from tests.by_hand import vectors_of
from tests.sessions import fit_context, session

TRAINING = {"lr": 0.02, "epochs": 3, "batch_size": 4}


def scores(name: str, folder: Path, **params: Any) -> np.ndarray:
    localizer = load_localizer(name)
    given = params or (TRAINING if "lr" in localizer.Params.model_fields else {})
    values: np.ndarray = localizer.score(fit_context(session(), folder), localizer.Params(**given)).values
    return values


@pytest.mark.parametrize("name", [name for name in localizer_names() if not load_localizer(name).planted_only])
def test_every_head_gets_a_score_and_the_same_one_again(name: str, tmp_path: Path) -> None:
    found = scores(name, tmp_path)
    assert found.shape == (3, 4)
    assert len(rank_heads(found)) == 12
    np.testing.assert_array_equal(found, scores(name, tmp_path))


def test_bias_norm_is_the_norm_of_offsets_trained_on_all_heads(tmp_path: Path) -> None:
    localizer = load_localizer("bias_norm")
    params = localizer.Params(**TRAINING)
    fitted = train(session(), LofitConfig(scale=False, offset=True, init_std=1e-3, init_seed=3), params, "t")
    found = scores("bias_norm", tmp_path)
    for (layer, head), vector in vectors_of(fitted.model, "llama", "offset").items():
        assert found[layer, head] == pytest.approx(float(vector.norm()), rel=1e-5)


def test_probe_layers_takes_whole_layers_by_the_mean_of_their_probes(tmp_path: Path) -> None:
    probes, layers = scores("iti_probe", tmp_path), scores("probe_layers", tmp_path)
    assert ((probes >= 0) & (probes <= 1)).all()
    np.testing.assert_allclose(layers, np.repeat(probes.mean(axis=1, keepdims=True), 4, axis=1))
    best = rank_heads(layers)["layer"][:4]
    assert best.nunique() == 1
    assert best[0] == probes.mean(axis=1).argmax()


def test_ties_between_probes_go_to_the_lower_log_loss(tmp_path: Path) -> None:
    """On made-up accuracies of which all are alike, heads and layers are in the order of their log-loss."""
    losses = np.array([[0.4, 0.3, 0.9, 0.8], [0.1, 0.7, 0.2, 0.6], [1.0, 1.1, 1.2, 1.3]])
    alike = ProbeScores(np.tile([0.1, 0.2, 0.6, 0.3], (3, 1)), losses)
    alike.accuracies[1] = alike.accuracies[1, ::-1]  # the same sum in another order
    ranked = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "probe_scores", lambda *_: alike)
        for name in ("iti_probe", "probe_layers"):
            localizer = load_localizer(name)
            found = localizer.score(fit_context(session(), tmp_path), localizer.Params())
            ranked[name] = rank_heads(found.values, found.tie_breaks)
    assert ranked["probe_layers"]["layer"].tolist() == [1] * 4 + [0] * 4 + [2] * 4
    heads = list(zip(ranked["iti_probe"]["layer"], ranked["iti_probe"]["head"], strict=True))
    assert heads[:6] == [(1, 1), (0, 2), (2, 2), (1, 0), (0, 3), (2, 3)]


def test_the_control_of_step_a_trains_on_the_answers_of_other_rows(tmp_path: Path) -> None:
    rows = session().train
    moved = shuffled(rows, seed=1)
    assert moved == shuffled(rows, seed=1) != shuffled(rows, seed=2)
    assert [row["prompt"] for row in moved] == [row["prompt"] for row in rows]
    places = [[at["target"] for at in rows].index(row["target"]) for row in moved]
    assert sorted(places) == list(range(len(rows)))
    assert not any(place == at for at, place in enumerate(places))
    pairs = shuffled([{"train_prompt": n, "chosen": n, "rejected": n} for n in range(5)], seed=1)
    assert all(row["chosen"] == row["rejected"] != row["train_prompt"] for row in pairs)
    plain, control = (scores("lofit", tmp_path, **TRAINING, shuffle_targets=value) for value in (False, True))
    np.testing.assert_array_equal(plain, scores("lofit", tmp_path, **TRAINING))
    assert not np.allclose(plain, control, rtol=0.01)


def test_random_heads_differ_by_seed_and_by_split_and_need_no_model() -> None:
    localizer = load_localizer("random")

    def draw(name: str, seed: int, **params: int) -> list[float]:
        def no_model() -> Any:
            raise AssertionError("no model is needed")

        bench = FitContext("t", name, seed, 30, 9, no_model)
        values: list[float] = localizer.score(bench, localizer.Params(**params)).values.ravel().tolist()
        return values

    one = draw("m/truthfulqa/fold0", 1)
    assert one == draw("m/truthfulqa/fold0", 1)
    assert one != draw("m/truthfulqa/fold1", 1)
    assert one != draw("m/truthfulqa/fold0", 2)
    assert one != draw("m/truthfulqa/fold0", 1, draw=1)
    assert len(set(one)) == 270


def test_all_keeps_the_order_of_layers_and_heads(tmp_path: Path) -> None:
    ranking = rank_heads(scores("all", tmp_path))
    pairs = list(zip(ranking["layer"], ranking["head"], strict=True))
    assert pairs == [(layer, head) for layer in range(3) for head in range(4)]


def rises(damage: Damage, size: float) -> float:
    """Slope of the training loss over a damage that is scaled by ``size`` and then by its negative."""
    opened = session()
    validation = Validation(session(validation=opened.train), LossParams())
    forward, losses = validation.forward(opened.model), []
    for sign in (-size, size):
        changed = Damage(damage.heads, 1 + sign * damage.factors, -sign * damage.offsets)
        with damaged(opened.model, changed):
            losses.append(validation.loss(forward))
    assert None not in losses
    return float((losses[1] - losses[0]) / (2 * size))


def test_ablation_is_the_change_of_the_loss_without_a_head_or_its_slope(tmp_path: Path) -> None:
    exact, estimate, opened = scores("ablation", tmp_path, exact=True), scores("ablation", tmp_path), session()
    validation = Validation(session(validation=opened.train), LossParams())
    for head in ((0, 0), (1, 2), (2, 3)):
        whole, model = validation.loss(validation.forward(session().model)), session().model
        weight = model.get_submodule(f"model.layers.{head[0]}.self_attn.o_proj").weight
        with torch.no_grad():
            weight[:, head[1] * 8 : (head[1] + 1) * 8] = 0
        without = validation.loss(validation.forward(model))
        assert whole is not None and without is not None
        assert exact[head] == pytest.approx(abs(without - whole), rel=1e-3, abs=1e-5)
        slope = rises(Damage((head,), torch.ones(1), torch.zeros(1, 8)), 0.02)
        assert estimate[head] == pytest.approx(abs(slope), rel=0.02, abs=1e-5)


def test_attribution_is_the_slope_along_the_difference_of_right_and_wrong_answers(tmp_path: Path) -> None:
    found, activations = scores("attribution", tmp_path), fit_context(session(), tmp_path).activations
    train = activations.texts["split"] == "train"
    for layer, head in ((0, 1), (1, 2), (2, 0)):
        z = np.asarray(activations.heads[layer, :, head], dtype=np.float64)
        difference = z[train & (activations.labels == 1)].mean(0) - z[train & (activations.labels == 0)].mean(0)
        offset = torch.tensor(difference, dtype=torch.float32)[None]
        slope = rises(Damage(((layer, head),), torch.zeros(1), offset), 0.05)
        assert found[layer, head] == pytest.approx(-slope, rel=0.02, abs=1e-6)
        assert scores("sadi", tmp_path)[layer, head] == pytest.approx(difference.mean(), rel=1e-5)
