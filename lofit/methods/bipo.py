"""BiPO: an offset after one layer that prefers right answers and, turned round, wrong ones (arXiv 2406.00045)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lofit import interventions
from lofit.methods.method import Method
from lofit.methods.one_layer import Layer, layer_at
from lofit.spec.hyperparameters import FitParams

if TYPE_CHECKING:
    from lofit.training.context import FitContext
    from lofit.training.trainer import Fitted


class Params(FitParams):
    """Hyperparameters of BiPO."""

    layer: Layer = Field(default=0.47, description="the layer, counted from 0, or a share of the depth")


def fit(context: FitContext, params: Params) -> Fitted:
    """Train v in h' = h + v on the output of one layer, from 0, by the bidirectional preference loss."""
    from lofit.training.trainer import train

    given = context.session
    session = replace(given, objective="bipo")
    if given.objective != "dpo":
        session.train, session.validation = ([_pair(row) for row in rows] for rows in (given.train, given.validation))
    at = layer_at(params.layer, context.n_layers)
    config = interventions.LofitConfig(site="block", layers=[at], scale=False, offset=True)
    return train(session, config, params, context.title)


def _pair(row: dict[str, Any]) -> dict[str, Any]:
    """Return the first right and the first wrong answer to a question as a preference pair."""
    contrast = row["contrast"]
    right, wrong = contrast["right"][0], contrast["wrong"][0]
    return {"id": row.get("id"), "train_prompt": contrast["prompt"], "chosen": right, "rejected": wrong}


METHOD = Method(
    name="bipo",
    summary="a trained offset after one layer that prefers right answers and, turned round, wrong ones",
    source="BiPO, Cao et al. 2024 (arXiv 2406.00045), section 3; CaoYuanpu/BiPO@cef1d00",
    Params=Params,
    learns="v in h' = h + v on the output of one layer, by the gradient of the preference loss of v and of -v",
    parameters="D",
    deviations="pairs are a right and a wrong answer of the task; both directions in every step, where the authors' "
    "code draws one; linear decay, not cosine; validation loss is the preference loss with v",
    fit=fit,
)
