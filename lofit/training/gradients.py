"""Gradients of the training loss by what an edit of every head would learn, at the unedited model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from peft import get_peft_model

from lofit.interventions import LofitConfig
from lofit.interventions.tuner.parameters import edited_layers
from lofit.models.encoding import Row
from lofit.models.meter import Meter
from lofit.models.session import Session
from lofit.spec.hyperparameters import LossParams
from lofit.training.loop import deterministically
from lofit.training.trainer import Validation


@dataclass(frozen=True)
class HeadGradients:
    """Gradients of the summed loss of some training rows.

    Attributes:
        terms: number of terms of the sum: answer tokens, or preference pairs.
        scale: float64 [layers, heads, head dimension], by a in z' = (1 + a) z + v at a = v = 0.
        offset: the same by v.
    """

    terms: int
    scale: np.ndarray
    offset: np.ndarray


def head_gradients(session: Session, params: LossParams, size: int, meter: Meter) -> Iterator[HeadGradients]:
    """Compute the gradients of the training rows, ``size`` rows at a time; the session's model gets an adapter."""
    rows = Validation(replace(session, validation=session.train), params)
    model = get_peft_model(session.model, LofitConfig(scale=True, offset=True)).eval()
    forward = rows.forward(model)
    (name,) = model.active_adapters
    layers = [module for _, module in edited_layers(model)]
    for start in range(0, len(rows.rows), size):
        part = rows.rows[start : start + size]

        def backward(part: list[Row] = part) -> None:
            model.zero_grad()
            rows.objective.total(forward, part).backward()

        deterministically(backward)
        found = [
            np.stack([getattr(layer, kind)[name].grad.double().cpu().numpy() for layer in layers])
            for kind in ("lofit_scale", "lofit_offset")
        ]
        yield HeadGradients(rows.objective.terms(part), *found)
        meter.sample()
