"""RepE: a fixed shift of the residual stream along reading vectors (arXiv 2310.01405)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, StrictFloat, StrictInt

from lofit import interventions
from lofit.activations.names import Reading
from lofit.methods.method import Method
from lofit.spec.hyperparameters import LossParams

if TYPE_CHECKING:
    from lofit.methods.strength import Edit
    from lofit.training.context import FitContext
    from lofit.training.trainer import Fitted


class Params(LossParams):
    """Hyperparameters of RepE."""

    reading: Reading = Field(default="pca", description="principal component of differences, or their mean")
    coefficient: tuple[float, ...] = Field(min_length=1, description="strengths to choose from; 0 changes nothing")
    unit: Literal["norm", "absolute"] = Field(
        default="norm", description="coefficients are shares of the residual stream's mean norm in a layer, or absolute"
    )
    layers: tuple[Annotated[StrictInt, Field(ge=1)] | Annotated[StrictFloat, Field(gt=0, le=1)], ...] = Field(
        min_length=1, description="numbers of layers, or shares of all layers, best-reading first"
    )


def fit(context: FitContext, params: Params) -> Fitted:
    """Add coefficient times the reading vector to the output of chosen layers, at every position.

    Layers are taken in order of reading accuracy on validation pairs, with ties in order of depth. Their number and the
    coefficient are chosen on validation.
    """
    import numpy as np

    from lofit.activations.reading import reading_vectors
    from lofit.methods.strength import choose

    vectors = reading_vectors(context.activations, params.reading, context.seed)
    order = np.argsort(-vectors.accuracies, kind="stable").tolist()
    length = vectors.norms if params.unit == "norm" else np.ones(context.n_layers)

    def edit(layers: float, coefficient: float) -> Edit:
        count = layers if isinstance(layers, int) else max(1, round(layers * context.n_layers))
        chosen = sorted(order[:count])
        config = interventions.LofitConfig(site="block", layers=chosen, scale=False, offset=True, inference_mode=True)
        return config, {(at, 0): coefficient * length[at] * vectors.directions[at] for at in chosen}

    fitted = choose(context, params, {"layers": params.layers, "coefficient": params.coefficient}, edit)
    fitted.record["reading_accuracy"] = vectors.accuracies.tolist()
    return fitted


METHOD = Method(
    name="repe",
    summary="a fixed shift of the residual stream along reading vectors",
    source="RepE, Zou et al. 2023 (arXiv 2310.01405), sections 3.1 and 3.2; andyzoujm/representation-engineering",
    Params=Params,
    learns="an offset on the output of chosen layers along the first principal component of right minus wrong; "
    "coefficient (0 among its values: no shift) and layers chosen on validation; no gradient",
    parameters="D per chosen layer",
    deviations="contrasts are right and wrong answers of the task; coefficients are in units of the residual norm "
    "unless unit is absolute",
    grid=("layers", "coefficient"),
    uses_activations=True,
    fit=fit,
)
