"""CAA: the mean difference of right and wrong answers, added after one layer (arXiv 2312.06681)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, StrictFloat, StrictInt

from lofit import interventions
from lofit.errors import EditError
from lofit.methods.method import Method
from lofit.spec.hyperparameters import LossParams

if TYPE_CHECKING:
    from lofit.methods.strength import Edit
    from lofit.training.context import FitContext
    from lofit.training.trainer import Fitted


class Params(LossParams):
    """Hyperparameters of CAA."""

    multiplier: tuple[float, ...] = Field(min_length=1, description="strengths to choose from; 0 changes nothing")
    layer: tuple[Annotated[StrictInt, Field(ge=0)] | Annotated[StrictFloat, Field(ge=0, lt=1)], ...] = Field(
        min_length=1, description="layers to choose from, counted from 0, or shares of the depth"
    )
    positions: Literal["all", "answer"] = Field(
        default="answer", description="where to add; answer: the last prompt token and all after it (not foldable)"
    )


def fit(context: FitContext, params: Params) -> Fitted:
    """Add multiplier times the mean difference to the output of one layer; both are chosen on validation.

    The difference is of the residual stream at the last token of right and wrong answers to the training questions.
    """
    from lofit.methods.strength import choose

    differences = context.activations.mean_differences(context.activations.blocks)

    def edit(layer: float, multiplier: float) -> Edit:
        at = layer if isinstance(layer, int) else int(layer * context.n_layers)
        if at >= context.n_layers:
            raise EditError(f"layer {at}: the model has layers 0 to {context.n_layers - 1}; correct layer")
        config = interventions.LofitConfig(
            site="block", layers=[at], positions=params.positions, scale=False, offset=True, inference_mode=True
        )
        return config, {(at, 0): multiplier * differences[at]}

    grid = {"layer": params.layer, "multiplier": params.multiplier}
    return choose(context.session, params, grid, edit, context.title)


METHOD = Method(
    name="caa",
    summary="the mean difference of right and wrong answers added to the residual stream after one layer",
    source="CAA, Rimsky et al. 2024 (arXiv 2312.06681), sections 3 and 4",
    Params=Params,
    learns="an offset on the output of one layer, the mean of right minus wrong; layer and multiplier (0 among its "
    "values: no shift) chosen on validation; no gradient",
    parameters="D",
    deviations="contrasts are right and wrong answers of the task in full, not the letters of two options",
    foldable=False,
    grid=("layer", "multiplier"),
    uses_activations=True,
    fit=fit,
)
