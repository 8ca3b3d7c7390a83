"""ITI: inference-time intervention, a fixed shift of the heads with the best probes (arXiv 2306.03341)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lofit import interventions
from lofit.activations.names import Direction
from lofit.methods.method import Method
from lofit.spec.hyperparameters import LossParams

if TYPE_CHECKING:
    from lofit.methods.strength import Edit
    from lofit.training.context import FitContext
    from lofit.training.trainer import Fitted


class Params(LossParams):
    """Hyperparameters of ITI; the number of heads K is chosen from ``heads.k``."""

    direction: Direction = Field(default="mass_mean", description="mean difference, probe weights, or random")
    alpha: tuple[float, ...] = Field(
        min_length=1, description="strengths to choose from, in standard deviations; 0 changes nothing"
    )
    positions: Literal["all", "answer"] = Field(
        default="all", description="where to shift; answer: the last prompt token and all after it (not foldable)"
    )
    ddof: int = Field(default=0, ge=0, le=1, description="0: population, 1: sample standard deviation")


def fit(context: FitContext, params: Params) -> Fitted:
    """Shift z by alpha sigma theta on the best K heads; alpha and K are chosen on validation.

    theta is the head's unit direction from wrong to right answers, and sigma is the standard deviation of the answers'
    projections on it. Both are estimated on the training questions. The best heads are by default those whose probes
    have the highest validation accuracy, and among equal ones the lowest validation log-loss.
    """
    from lofit.activations.probes import head_directions, projection_spread
    from lofit.methods.strength import choose

    heads = context.heads(max(context.k))
    directions = head_directions(context.activations, heads, params.direction, context.seed)
    sigma = projection_spread(context.activations, heads, directions, params.ddof)
    shifts = sigma[:, None] * directions

    def edit(k: int, alpha: float) -> Edit:
        config = interventions.LofitConfig(
            heads=heads[:k], positions=params.positions, scale=False, offset=True, inference_mode=True
        )
        return config, dict(zip(heads[:k], alpha * shifts[:k], strict=True))

    grid: dict[str, Any] = {"k": context.k, "alpha": params.alpha}
    return choose(context, params, grid, edit)


METHOD = Method(
    name="iti",
    summary="a fixed shift of the heads whose probes tell right from wrong answers best",
    source="ITI, Li et al. 2023 (arXiv 2306.03341), section 4; likenneth/honest_llama",
    Params=Params,
    learns="v = alpha sigma theta on each of K heads; theta and sigma from activations, alpha (0 among "
    "its values: no shift) and K chosen on validation; no gradient",
    parameters="K d",
    deviations="acts at every position unless positions is answer; theta and sigma from the training questions alone, "
    "since alpha and K are chosen on the validation questions; sigma over the texts that theta is from, "
    "not over another set; heads with equal accuracy are ranked by the log-loss of their probes",
    localizer="iti_probe",
    chooses_k=True,
    grid=("alpha",),
    uses_activations=True,
    fit=fit,
)
