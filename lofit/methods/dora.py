"""DoRA: LoRA with a learned magnitude per output feature, by PEFT."""

from __future__ import annotations

from functools import partial

from lofit.methods.lora import Params, adapter
from lofit.methods.method import Method, trains

METHOD = Method(
    name="dora",
    summary="LoRA with the weight's magnitude learned apart from its direction",
    source="Liu et al. 2024 (arXiv 2402.09353)",
    Params=Params,
    learns="magnitudes m and a low-rank update: W' = m (W + (alpha / r) B A) / |W + (alpha / r) B A|, by gradient",
    parameters="r (in + out) + out, summed over the target modules",
    deviations="rank, alpha and dropout of lora here",
    fit=trains(partial(adapter, use_dora=True)),
)
