"""A vector added to the output of one layer: which layer that is, and layer and strength by validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, StrictFloat, StrictInt

from lofit import interventions
from lofit.errors import EditError
from lofit.spec.hyperparameters import LossParams

if TYPE_CHECKING:
    import numpy as np

    from lofit.methods.strength import Edit
    from lofit.training.context import FitContext
    from lofit.training.trainer import Fitted

Layer = Annotated[StrictInt, Field(ge=0)] | Annotated[StrictFloat, Field(ge=0, lt=1)]
"""A layer, counted from 0, or a share of the depth."""


class ShiftParams(LossParams):
    """Hyperparameters of a given vector that is added to the output of one layer."""

    multiplier: tuple[float, ...] = Field(min_length=1, description="strengths to choose from; 0 changes nothing")
    layer: tuple[Layer, ...] = Field(
        min_length=1, description="layers to choose from, counted from 0, or shares of the depth"
    )
    positions: Literal["all", "answer"] = Field(
        default="answer", description="where to add; answer: the last prompt token and all after it (not foldable)"
    )


def layer_at(layer: float, n_layers: int) -> int:
    """Return the number of a layer.

    Raises:
        EditError: the model has no such layer.
    """
    at = layer if isinstance(layer, int) else int(layer * n_layers)
    if at >= n_layers:
        raise EditError(f"layer {at}: the model has layers 0 to {n_layers - 1}; correct layer")
    return at


def choose_shift(context: FitContext, params: ShiftParams, vectors: np.ndarray) -> Fitted:
    """Add multiplier times a layer's vector to its output; layer and multiplier are chosen on validation.

    Args:
        context: the inputs of the fit.
        params: what to choose from.
        vectors: float [layers, hidden size].
    """
    from lofit.methods.strength import choose

    def edit(layer: float, multiplier: float) -> Edit:
        at = layer_at(layer, context.n_layers)
        config = interventions.LofitConfig(
            site="block", layers=[at], positions=params.positions, scale=False, offset=True, inference_mode=True
        )
        return config, {(at, 0): multiplier * vectors[at]}

    grid = {"layer": params.layer, "multiplier": params.multiplier}
    return choose(context, params, grid, edit)
