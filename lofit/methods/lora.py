"""LoRA: low-rank updates of the attention's query and value projections, by PEFT."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from pydantic import Field

from lofit.errors import EditError
from lofit.methods.method import Method, trains
from lofit.methods.targets import QUERY_VALUE, Layers, TargetParams

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig
    from transformers import PreTrainedModel

    from lofit.training.context import FitContext


class Params(TargetParams):
    """Hyperparameters of LoRA."""

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of the update's inputs set to 0 in training")


def adapter(params: Params, context: FitContext, use_dora: bool = False) -> PeftConfig:
    """Configure PEFT's LoRA.

    Raises:
        EditError: the model lacks the modules, or PEFT would adapt others.
    """
    from peft import LoraConfig
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    model = context.session.model
    layers = Layers(model)
    targets = layers.pick(params.target_modules, KNOWN, QUERY_VALUE, "query and value projection")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=params.rank,
        lora_alpha=params.alpha,  # type: ignore[arg-type]  # PEFT annotates int and takes any number
        lora_dropout=params.dropout,
        use_dora=use_dora,
        **targets.by_name,
    )
    if _goes_to_experts(config, model):
        raise EditError(
            f"target_modules: PEFT takes one of {', '.join(targets.names)} for the fused experts of {layers.kind}; "
            f"leave it out: {layers.remedy}"
        )
    return config


def _goes_to_experts(config: LoraConfig, model: PreTrainedModel) -> bool:
    """Whether PEFT would adapt stacked experts instead, as it does for module names of older transformers."""
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    converted = deepcopy(config)  # the conversion changes it in place
    try:
        convert_peft_config_for_transformers(converted, model, None)
    except ValueError:  # some of the names that PEFT converts together are missing
        return True
    return bool(converted.target_parameters)


METHOD = Method(
    name="lora",
    summary="low-rank updates of the query and value projections",
    source="Hu et al. 2022 (arXiv 2106.09685); rank 8 on q and v, alpha 8 and dropout 0.1 as in LoFiT, Table 3",
    Params=Params,
    learns="W' = W + (alpha / r) B A for the query and value projections of every layer, by gradient",
    parameters="r (in + out), summed over the target modules",
    deviations="LoFiT's Table 3 has the learning rate chosen per dataset: give a search",
    fit=trains(adapter),
)
