"""LoFiT, step A: rank heads by the norm of learned scaling factors (arXiv 2406.01563, section 3.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lofit.fit.params import TrainParams
from lofit.localize.spec import Localizer

if TYPE_CHECKING:
    from lofit.fit.workbench import Workbench
    from lofit.localize.ranking import Scores


class Params(TrainParams):
    """Hyperparameters of step A."""

    init_std: float = Field(default=1e-3, ge=0, description="standard deviation of the initial values")


def norms_on_all_heads(bench: Workbench, params: Params, which: Literal["scale", "offset"]) -> Scores:
    """Train one kind of vector on all heads; the score of a head is the L2 norm of its vector."""
    from lofit.fit.trainer import train
    from lofit.interventions import LofitConfig, head_norms
    from lofit.localize.ranking import Scores

    config = LofitConfig(
        scale=which == "scale", offset=which == "offset", init_std=params.init_std, init_seed=bench.seed
    )
    unwatched = replace(bench.session, validation=[])  # a ranking is no choice by loss
    fitted = train(unwatched, config, params, bench.title)
    return Scores(head_norms(fitted.model, which=which), fitted.record)


def score(bench: Workbench, params: Params) -> Scores:
    """Train a in z' = (1 + a) z on all heads with an L1 penalty; the score of a head is the L2 norm of its a."""
    return norms_on_all_heads(bench, params, "scale")


LOCALIZER = Localizer(
    name="lofit",
    summary="L2 norm of scaling factors trained on all heads with an L1 penalty",
    source="LoFiT (arXiv 2406.01563), section 3.1; fc2869/lo-fit",
    Params=Params,
    score=score,
)
