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

    return IA3Config(task_type="CAUSAL_LM")


METHOD = Method(
    name="ia3",
    summary="scaling vectors on keys, values and the feed-forward activation",
    source="Liu et al. 2022 (arXiv 2205.05638)",
    Params=TrainParams,
    learns="elementwise scales of the keys, the values and the input of the down projection, by gradient",
    parameters="out of key and value, in of the down projection, summed over layers",
    fit=trains(adapter),
)
