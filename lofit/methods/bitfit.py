"""BitFit: the bias of every linear map, by PEFT's BEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit.methods.method import Method, trains
from lofit.methods.targets import Layers
from lofit.spec.hyperparameters import FitParams

if TYPE_CHECKING:
    from peft import PeftConfig

    from lofit.training.context import FitContext


def adapter(params: FitParams, context: FitContext) -> PeftConfig:
    """Configure PEFT's BEFT on every linear map in the layers of the language model."""
    from peft import BeftConfig

    layers = Layers(context.session.model)
    names = sorted({path.rpartition(".")[2] for path in layers.paths})
    return BeftConfig(task_type="CAUSAL_LM", **layers.targets(names).by_pattern)


METHOD = Method(
    name="bitfit",
    summary="the bias of every linear map",
    source="Ben Zaken et al. 2022 (arXiv 2106.10199)",
    Params=FitParams,
    learns="a change of the bias of every linear map in the layers, by gradient",
    parameters="out, summed over all linear maps of the layers",
    deviations="current families have few or no biases or none at all: those missing are added, starting from 0; "
    "the biases of norms are left alone",
    foldable=False,
    fit=trains(adapter),
)
