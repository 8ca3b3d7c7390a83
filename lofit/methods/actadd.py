"""ActAdd: the difference between the activations of two prompts, added after one layer (arXiv 2308.10248)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lofit.methods.method import Method
from lofit.methods.one_layer import ShiftParams, choose_shift

if TYPE_CHECKING:
    from lofit.training.context import FitContext
    from lofit.training.trainer import Fitted


class Params(ShiftParams):
    """Hyperparameters of ActAdd."""

    towards: str = Field(default="The answer is right", min_length=1, description="prompt to steer towards")
    away: str = Field(default="The answer is wrong", min_length=1, description="prompt to steer away from")


def fit(context: FitContext, params: Params) -> Fitted:
    """Add multiplier times the difference to the output of one layer; both are chosen on validation.

    The difference is of the residual stream at the last token of the two prompts.
    """
    from lofit.activations.last_token import block_outputs

    towards, away = block_outputs(context.session, [params.towards, params.away])
    return choose_shift(context, params, towards - away)


METHOD = Method(
    name="actadd",
    summary="the difference between the activations of two given prompts, added after one layer",
    source="ActAdd, Turner et al. 2023 (arXiv 2308.10248), section 3",
    Params=Params,
    learns="an offset on the output of one layer, the difference between two prompts at their last token; layer and "
    "multiplier (0 among its values: no shift) chosen on validation; no gradient, no data but for that choice",
    parameters="D",
    deviations="one vector, from the last token, at all answer positions; the paper adds one for each token of the "
    "prompts, at the first positions of the text; never worded by a chat template",
    foldable=False,
    grid=("layer", "multiplier"),
    fit=fit,
)
