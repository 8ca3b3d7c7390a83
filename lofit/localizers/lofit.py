"""LoFiT, step A: rank heads by the norm of learned scaling factors (arXiv 2406.01563, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from lofit import interventions
from lofit.localizers.localizer import Localizer, Scores
from lofit.spec.hyperparameters import TrainParams

if TYPE_CHECKING:
    from lofit.training.context import FitContext

ANSWERS = ("target", "chosen", "rejected")
"""Fields of training rows that hold what is learned."""


class Params(TrainParams):
    """Hyperparameters of step A."""

    init_std: float = Field(default=1e-3, ge=0, description="standard deviation of the initial values")
    shuffle_targets: bool = Field(
        default=False, description="a control: train on prompts with the answers of other rows, drawn at random"
    )


def shuffled(rows: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Give every row, of two or more, the answer (or pair of answers) of another one, each to one row."""
    drawn = np.random.default_rng(seed).permutation(len(rows))
    others = dict(zip(drawn, np.roll(drawn, 1), strict=True))
    return [{**row, **{name: rows[others[at]][name] for name in ANSWERS if name in row}} for at, row in enumerate(rows)]


def norms_on_all_heads(context: FitContext, params: Params, which: Literal["scale", "offset"]) -> Scores:
    """Train scaling factors or offsets on all heads, and score each head by the L2 norm of its vector."""
    from lofit.training.trainer import train

    config = interventions.LofitConfig(
        scale=which == "scale", offset=which == "offset", init_std=params.init_std, init_seed=context.seed
    )
    unwatched = replace(context.session, validation=[])  # the validation loss plays no part in a ranking
    if params.shuffle_targets:
        unwatched.train = shuffled(unwatched.train, context.seed)
    fitted = train(unwatched, config, params, context.title)
    return Scores(interventions.head_norms(fitted.model, which=which), fitted.record)


def score(context: FitContext, params: Params) -> Scores:
    """Train a in z' = (1 + a) z on all heads with an L1 penalty, and score each head by the L2 norm of its a."""
    return norms_on_all_heads(context, params, "scale")


LOCALIZER = Localizer(
    name="lofit",
    summary="L2 norm of scaling factors trained on all heads with an L1 penalty",
    source="LoFiT (arXiv 2406.01563), section 3.1; fc2869/lo-fit",
    Params=Params,
    score=score,
)
