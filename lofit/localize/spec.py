"""What a localizer is: hyperparameters and a score for every attention head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from lofit.fit.workbench import Workbench
    from lofit.localize.ranking import Scores


@dataclass(frozen=True)
class Localizer:
    """One way to rank heads.

    Attributes:
        name: name in configurations.
        summary: one line for documentation.
        source: paper or repository the strategy is from.
        Params: pydantic model of its hyperparameters.
        score: ``(workbench, params) -> Scores``; higher is better.
        uses_activations: whether it reads the activations of right and wrong answers.
    """

    name: str
    summary: str
    source: str
    Params: type[BaseModel]
    score: Callable[[Workbench, Any], Scores]
    uses_activations: bool = False
