"""Definition of a localizer: hyperparameters, and a score for every attention head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    import numpy as np

    from lofit.training.context import FitContext


@dataclass(frozen=True)
class Scores:
    """The result of a localizer.

    Attributes:
        values: float64 [layers, query heads]; higher is better.
        record: cost and course of the localization, for ``localize.json``.
        tie_breaks: float64 [layers, query heads], by which heads with the same score are ranked; higher is better.
            None: by layer and head.
    """

    values: np.ndarray
    record: dict[str, Any]
    tie_breaks: np.ndarray | None = None


@dataclass(frozen=True)
class Localizer:
    """A way to rank heads.

    Attributes:
        name: name in configurations.
        summary: one line for documentation.
        source: paper or repository that the strategy is from.
        Params: pydantic model of its hyperparameters.
        score: ``(context, params) -> Scores``; higher is better.
        uses_activations: whether it reads the activations of right and wrong answers.
        planted_only: whether it knows which heads are damaged, and so is for planted heads alone.
    """

    name: str
    summary: str
    source: str
    Params: type[BaseModel]
    score: Callable[[FitContext, Any], Scores]
    uses_activations: bool = False
    planted_only: bool = False
