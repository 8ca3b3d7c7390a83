"""CAA: the mean difference of right and wrong answers, added after one layer (arXiv 2312.06681)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit.methods.method import Method
from lofit.methods.one_layer import ShiftParams, choose_shift

if TYPE_CHECKING:
    from lofit.training.context import FitContext
    from lofit.training.trainer import Fitted


def fit(context: FitContext, params: ShiftParams) -> Fitted:
    """Add multiplier times the mean difference to the output of one layer; both are chosen on validation.

    The difference is of the residual stream at the last token of right and wrong answers to the training questions.
    """
    return choose_shift(context, params, context.activations.mean_differences(context.activations.blocks))


METHOD = Method(
    name="caa",
    summary="the mean difference of right and wrong answers added to the residual stream after one layer",
    source="CAA, Rimsky et al. 2024 (arXiv 2312.06681), sections 3 and 4",
    Params=ShiftParams,
    learns="an offset on the output of one layer, the mean of right minus wrong; layer and multiplier (0 among its "
    "values: no shift) chosen on validation; no gradient",
    parameters="D",
    deviations="contrasts are right and wrong answers of the task in full, not the letters of two options",
    foldable=False,
    grid=("layer", "multiplier"),
    uses_activations=True,
    fit=fit,
)
