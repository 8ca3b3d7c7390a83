"""LoFiT, step V: offset vectors on the selected heads (arXiv 2406.01563, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from lofit.methods.spec import Head, Method, TrainParams

if TYPE_CHECKING:
    from peft import PeftConfig


class Params(TrainParams):
    """Hyperparameters of step V."""

    init_std: float = Field(default=1e-3, ge=0, description="standard deviation of the initial offsets")


def adapter(params: Params, heads: Sequence[Head] | None, seed: int) -> PeftConfig:
    """Offsets v of shape [head dim] on each selected head; the scaling factors of step A are discarded."""
    from lofit.interventions import LofitConfig

    assert heads is not None
    return LofitConfig(heads=list(heads), scale=False, offset=True, init_std=params.init_std, init_seed=seed)


METHOD = Method(
    name="lofit",
    summary="offset vectors on the top-K heads of a localizer",
    source="LoFiT (arXiv 2406.01563), section 3; fc2869/lo-fit",
    Params=Params,
    uses_heads=True,
    adapter=adapter,
)
