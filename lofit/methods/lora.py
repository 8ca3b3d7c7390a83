"""LoRA: low-rank updates of the attention's query and value projections, by PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lofit.fit.params import TrainParams
from lofit.methods.spec import Method, trains

if TYPE_CHECKING:
    from peft import PeftConfig

    from lofit.fit.workbench import Workbench


class Params(TrainParams):
    """Hyperparameters of LoRA."""

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16, gt=0, description="the update is scaled by alpha / rank")
    target_modules: tuple[str, ...] | None = Field(
        default=None, description="module names; null: PEFT's choice for the family (query and value for Llama)"
    )


def adapter(params: Params, bench: Workbench, use_dora: bool = False) -> PeftConfig:
    """PEFT's LoRA without dropout, so that every method trains on the same forward pass."""
    from peft import LoraConfig
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    from lofit.methods.targets import default_targets

    targets = list(params.target_modules or ()) or default_targets(bench.session.model, KNOWN, ("q_proj", "v_proj"))
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=params.rank,
        lora_alpha=params.alpha,  # type: ignore[arg-type]  # PEFT annotates int and takes any number
        lora_dropout=0.0,
        target_modules=targets,
        use_dora=use_dora,
    )


METHOD = Method(
    name="lora",
    summary="low-rank updates of the query and value projections",
    source="Hu et al. 2022 (arXiv 2106.09685); rank 8 on q and v as in LoFiT, Table 3",
    Params=Params,
    learns="W' = W + (alpha / r) B A for the query and value projections of every layer, by gradient",
    parameters="r (in + out), summed over the target modules",
    deviations="no dropout",
    fit=trains(adapter),
)
