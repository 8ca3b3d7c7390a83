"""What a method is: its hyperparameters, whether it edits chosen heads, and the adapter it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from peft import PeftConfig

Head = tuple[int, int]
"""(layer, query head), both counted from 0."""


class NoParams(BaseModel):
    """Hyperparameters of a method that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainParams(BaseModel):
    """Hyperparameters of gradient training, shared by every trained method and localizer.

    Defaults are those of the authors' scripts (``fc2869/lo-fit`` at ``ebd344a``, scripts/): AdamW(0.9, 0.999, 1e-8),
    linear decay to zero without warm-up, gradient-norm clip 1.0, batch 8, 5 epochs, DPO beta 0.5.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: float = Field(gt=0, description="peak learning rate")
    epochs: int = Field(default=5, ge=1)
    batch_size: int = Field(default=8, ge=1, description="examples (or preference pairs) per optimiser step")
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    max_length: int = Field(default=512, ge=8, description="tokens of prompt and answer; longer examples are refused")
    beta: float = Field(default=0.5, gt=0, description="DPO inverse temperature (DPO tasks only)")
    l1: float = Field(default=0.0, ge=0, description="weight of the sum of absolute values of all trained parameters")


@dataclass(frozen=True)
class Method:
    """One way to adapt the model.

    Attributes:
        name: name in configurations and tables.
        summary: one line for documentation.
        source: paper or repository the method is from.
        Params: pydantic model of its hyperparameters.
        uses_heads: whether it edits heads ranked by a localizer.
        adapter: ``(params, heads, seed) -> PeftConfig`` of the adapter to train; ``heads`` is None unless
            ``uses_heads``. None for a method that changes nothing.
    """

    name: str
    summary: str
    source: str
    Params: type[BaseModel]
    uses_heads: bool = False
    adapter: Callable[[Any, Sequence[Head] | None, int], PeftConfig] | None = None
