"""RepE with contrast vectors: the edit is computed separately for every input (arXiv 2310.01405)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from lofit.methods.method import Method
from lofit.spec.hyperparameters import NoParams

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM


class Params(NoParams):
    """Hyperparameters of contrast vectors."""

    alpha: float = Field(default=0.25, description="strength of the difference that is added")
    layer_step: int = Field(default=2, ge=1, description="the edit is made after every so many layers, from layer 0")


def scorer(params: Params, **kwargs: Any) -> HFLM:
    """Create the lm-eval model that computes all three streams."""
    from lofit.evaluation.contrast import ContrastLM

    return ContrastLM(alpha=params.alpha, layer_step=params.layer_step, **kwargs)


METHOD = Method(
    name="repe_contrast",
    summary="differences between a truthful and an untruthful reading of the same input, added while it is read",
    source="RepE, Zou et al. 2023 (arXiv 2310.01405), contrast vectors; honesty notebook of "
    "andyzoujm/representation-engineering",
    Params=Params,
    learns="nothing; h + alpha (h_truthful - h_untruthful) from the cue of the answer on, in three streams, after "
    "every second layer",
    parameters="0; three forward passes in place of one",
    deviations="the instruction is put after the question of the protocol's own prompt; padding is masked",
    foldable=False,
    seeded=False,
    tasks=("truthfulqa",),
    scorer=scorer,
)
