"""SADI on heads: scale the heads whose activations differ most between right and wrong answers (arXiv 2410.12299)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lofit import interventions
from lofit.methods.method import Method
from lofit.spec.hyperparameters import LossParams

if TYPE_CHECKING:
    from lofit.methods.strength import Edit
    from lofit.training.context import FitContext
    from lofit.training.trainer import Fitted


class Params(LossParams):
    """Hyperparameters of SADI; the number of heads K is chosen from ``heads.k``."""

    strength: tuple[float, ...] = Field(min_length=1, description="factors to choose from; 1 changes nothing")
    positions: Literal["all", "answer"] = Field(
        default="answer", description="where to scale; answer: the last prompt token and all after it (not foldable)"
    )


def fit(context: FitContext, params: Params) -> Fitted:
    """Multiply z by the strength on the best K heads; strength and K are chosen on validation."""
    import numpy as np

    from lofit.methods.strength import choose

    heads = context.heads(max(context.k))
    width = context.activations.heads.shape[-1]

    def edit(k: int, strength: float) -> Edit:
        config = interventions.LofitConfig(heads=heads[:k], positions=params.positions, inference_mode=True)
        return config, dict.fromkeys(heads[:k], np.full(width, strength - 1.0))

    grid: dict[str, Any] = {"k": context.k, "strength": params.strength}
    return choose(context, params, grid, edit)


METHOD = Method(
    name="sadi",
    summary="the heads whose activations differ most between right and wrong answers, scaled",
    source="SADI, Wang et al. 2024 (arXiv 2410.12299), on heads; steering.py of weixuan-wang123/SADI@d7fedf0",
    Params=Params,
    learns="z' = strength z on each of K heads; heads from activations, strength (1 among its values: no change) and K "
    "chosen on validation; no gradient",
    parameters="K d, all of one value",
    deviations="also at the tokens of the answer, where the authors' code scales the last prompt token alone, with all "
    "other heads as in the unedited model; K and strength chosen on validation, not on test items; hidden states and "
    "neurons are not scaled",
    foldable=False,
    localizer="sadi",
    chooses_k=True,
    grid=("strength",),
    uses_activations=True,
    fit=fit,
)
