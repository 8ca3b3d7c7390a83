"""(IA)3: scaling vectors on keys, values and the feed-forward activation, by PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit.fit.params import TrainParams
from lofit.methods.spec import Method, trains

if TYPE_CHECKING:
    from peft import PeftConfig

    from lofit.fit.workbench import Workbench


def adapter(params: TrainParams, bench: Workbench) -> PeftConfig:
    """PEFT's (IA)3 on its choice of modules for the family."""
    from peft import IA3Config
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as KNOWN

    from lofit.methods.targets import default_targets

    targets = default_targets(bench.session.model, KNOWN, ("k_proj", "v_proj", "down_proj"))
    return IA3Config(
        task_type="CAUSAL_LM", target_modules=targets, feedforward_modules=["down_proj"] if targets else None
    )


METHOD = Method(
    name="ia3",
    summary="scaling vectors on keys, values and the feed-forward activation",
    source="Liu et al. 2022 (arXiv 2205.05638)",
    Params=TrainParams,
    learns="elementwise scales of the keys, the values and the input of the down projection, by gradient",
    parameters="out of key and value, in of the down projection, summed over layers",
    fit=trains(adapter),
)
