"""VeRA: scaling vectors between two frozen random matrices shared by all layers, by PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lofit.methods.method import Method, trains
from lofit.methods.targets import QUERY_VALUE, Layers, TargetParams

if TYPE_CHECKING:
    from peft import PeftConfig

    from lofit.training.context import FitContext


class Params(TargetParams):
    """Hyperparameters of VeRA."""

    rank: int = Field(default=256, ge=1)
    d_initial: float = Field(default=0.1, gt=0, description="initial value of the scaling vector d")


def adapter(params: Params, context: FitContext) -> PeftConfig:
    """Configure PEFT's VeRA without dropout; the random matrices are not stored but drawn again from the seed.

    Raises:
        EditError: the model lacks the modules.
    """
    from peft import VeraConfig
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_VERA_TARGET_MODULES_MAPPING as KNOWN

    targets = Layers(context.session.model).pick(
        params.target_modules, KNOWN, QUERY_VALUE, "query and value projection"
    )
    return VeraConfig(
        task_type="CAUSAL_LM",
        r=params.rank,
        d_initial=params.d_initial,
        vera_dropout=0.0,
        projection_prng_key=context.seed,
        save_projection=False,
        **targets.by_pattern,
    )


METHOD = Method(
    name="vera",
    summary="scaling vectors between frozen random matrices on the query and value projections",
    source="Kopiczko et al. 2024 (arXiv 2310.11454)",
    Params=Params,
    learns="b and d in W' = W + diag(b) B diag(d) A with random frozen A and B, by gradient",
    parameters="r + out, summed over the target modules",
    deviations="no dropout",
    fit=trains(adapter),
)
