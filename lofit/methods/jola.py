"""JoLA: scaling factors and offsets on all heads, with learned gates that decide which are used (arXiv 2502.01179)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from lofit import interventions
from lofit.methods.method import Method
from lofit.spec.hyperparameters import FitParams

if TYPE_CHECKING:
    from lofit.training.context import FitContext
    from lofit.training.trainer import Fitted


class Params(FitParams):
    """Hyperparameters of JoLA."""

    init_std: float = Field(default=1e-3, ge=0, description="standard deviation of the initial vectors")
    gate_weight: float = Field(default=0.1, ge=0, le=1, description="first weight of the offset gates' penalty")
    gate_decay: float = Field(default=0.01, ge=0, description="the weight falls with exp(-gate_decay) per step")
    compat_double_normalisation: bool = Field(
        default=False, description="divide the penalty by the number of heads once more, as the authors' code does"
    )


def penalty_weights(params: Params, step: int) -> tuple[float, float]:
    """Return penalty weights at a step, counted from 0: offset gates w exp(-decay step), scale gates 1 minus that."""
    offset = params.gate_weight * math.exp(-params.gate_decay * step)
    return offset, 1 - offset


def fit(context: FitContext, params: Params) -> Fitted:
    """Train z' = (1 + g2 a) z + g1 v on all heads, with the expected share of open gates as a penalty.

    The gates are hard-concrete during training and fixed during evaluation. At the end they are multiplied into the
    vectors, so that a plain LOFIT adapter is saved.
    """
    import torch

    from lofit.interventions.tuner.gates import Gates
    from lofit.training.trainer import Penalty, train

    config = interventions.LofitConfig(scale=True, offset=True, init_std=params.init_std, init_seed=context.seed)
    gates: list[Gates] = []

    def penalty(model: object) -> Penalty:
        gates.append(Gates(model, seed=context.seed))
        share = 1 / context.n_heads if params.compat_double_normalisation else 1.0

        def value(step: int) -> torch.Tensor:
            offset, scale = penalty_weights(params, step)
            return share * (offset * gates[0].open_share("offset") + scale * gates[0].open_share("scale"))

        return Penalty(value, gates[0].draw, gates[0].generator)

    fitted = train(context.session, config, params, context.title, penalty)
    fitted.record["gates"] = gates[0].close()
    return fitted


METHOD = Method(
    name="jola",
    summary="scaling factors and offsets on all heads with learned gates",
    source="JoLA, Lai et al. 2025 (arXiv 2502.01179); wenlai-lavine/jola",
    Params=Params,
    learns="a, v and two hard-concrete gates on every head, by gradient; gates are multiplied into a and v afterwards",
    parameters="2 L H d (2 L H (d + 1) while training)",
    deviations="penalty divided by the number of heads once, not twice; its weights change with training steps only; "
    "linear decay and the task's own prompt instead of cosine and a template; the best epoch by the validation metric "
    "instead of early stopping",
    fit=fit,
)
