"""Rank heads by layer: all heads of the layers with the best probes come first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit.localizers import iti_probe
from lofit.localizers.localizer import Localizer, Scores
from lofit.spec.hyperparameters import NoParams

if TYPE_CHECKING:
    from lofit.training.context import FitContext


def score(context: FitContext, params: NoParams) -> Scores:
    """Score each head by the mean validation accuracy of all probes of its layer."""
    import numpy as np

    found = iti_probe.score(context, params)
    layers = found.values.mean(axis=1, keepdims=True)
    return Scores(np.broadcast_to(layers, found.values.shape).copy(), found.record)


LOCALIZER = Localizer(
    name="probe_layers",
    summary="mean validation accuracy of the probes of the head's layer",
    source="LoFiT (arXiv 2406.01563), Table 2, selection by layer",
    Params=NoParams,
    score=score,
    uses_activations=True,
)
