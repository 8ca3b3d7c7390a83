"""RepE with contrast vectors: the edit is computed separately for every input (arXiv 2310.01405)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, StrictFloat, StrictInt

from lofit.methods.method import Method
from lofit.spec.hyperparameters import NoParams

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM


class Params(NoParams):
    """Hyperparameters of contrast vectors."""

    alpha: float = Field(default=0.25, description="strength of the difference that is added")
    layers: tuple[Annotated[StrictInt, Field(ge=0)] | Annotated[StrictFloat, Field(ge=0, lt=1)], ...] | None = Field(
        default=None,
        min_length=1,
        description="layers after which it is added, counted from 0, or shares of the depth; null: by layer_step",
    )
    layer_step: int = Field(default=2, ge=1, description="if layers is null, after every so many layers, from layer 0")
    positive: str = Field(min_length=1, description="instruction of the positive stream, put before the cue")
    negative: str = Field(min_length=1, description="instruction of the negative stream")
    cues: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=1, description="texts that begin the cue of the answer; it reaches to the end of the prompt"
    )


def scorer(params: Params, **kwargs: Any) -> HFLM:
    """Create the lm-eval model that computes all three streams."""
    from lofit.evaluation.contrast import ContrastLM

    return ContrastLM(**params.model_dump(), **kwargs)


METHOD = Method(
    name="repe_contrast",
    summary="differences between two readings of the same input, with opposite instructions, added while it is read",
    source="RepE, Zou et al. 2023 (arXiv 2310.01405), contrast vectors; honesty notebooks of "
    "andyzoujm/representation-engineering; the RepE baseline of LoFiT (arXiv 2406.01563)",
    Params=Params,
    learns="nothing; h + alpha (h_positive - h_negative) from the cue of the answer on, in three streams, after chosen "
    "layers; what is generated is read by all three",
    parameters="0; three forward passes in place of one",
    deviations="alpha and layers are given, where the LoFiT paper tuned alpha; the instruction is put before the cue "
    "of the task's own prompt; padding is masked; in the authors' notebook for generation, only the plain stream reads "
    "what is generated, and the difference added is that of the last 8 tokens of the prompts",
    foldable=False,
    seeded=False,
    tasks=("clutrr", "mquake", "truthfulqa"),
    scorer=scorer,
)
