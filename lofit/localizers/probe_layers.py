"""Rank heads by layer: all heads of the layers with the best probes come first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit.localizers import iti_probe
from lofit.localizers.localizer import Localizer, Scores
from lofit.spec.hyperparameters import NoParams

if TYPE_CHECKING:
    from lofit.training.context import FitContext


def score(context: FitContext, params: NoParams) -> Scores:
    """Score each head by the mean validation accuracy of all probes of its layer, with ties by their mean log-loss."""
    import numpy as np

    found = iti_probe.score(context, params)
    assert found.tie_breaks is not None

    def of_layer(values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(values.mean(axis=1, keepdims=True), values.shape).copy()

    # Rounded, since the sum of the same accuracies in another order may differ in its last bit, and hide a tie.
    return Scores(of_layer(found.values).round(12), found.record, of_layer(found.tie_breaks))


LOCALIZER = Localizer(
    name="probe_layers",
    summary="mean validation accuracy of the probes of the head's layer; ties by their mean validation log-loss",
    source="LoFiT (arXiv 2406.01563), Table 2, selection by layer",
    Params=NoParams,
    score=score,
    uses_activations=True,
)
