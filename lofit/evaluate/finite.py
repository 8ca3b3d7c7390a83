"""Predictions that are no numbers end an evaluation: a score made of them would look like any other."""

from __future__ import annotations

import math
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import LogitsProcessor, LogitsProcessorList

from lofit.errors import FitError


def require_finite(values: torch.Tensor) -> None:
    """Check what is reduced from logits, such as their maximum or the logarithm of the sum of their exponentials.

    Raises:
        FitError: a value is not finite.
    """
    if not bool(values.isfinite().all()):
        raise FitError(
            "the model predicts NaN or infinity; the edit is too large, or the weights are damaged or overflow in this "
            "precision (dtype)"
        )


class _Finite(LogitsProcessor):
    """Changes nothing."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        require_finite(scores.max(-1).values)
        return scores


class FiniteLM(HFLM):
    """The stock ``hf`` model, which raises ``FitError`` where a prediction is no number."""

    def _loglikelihood_tokens(self, *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        scores: list[tuple[float, bool]] = super()._loglikelihood_tokens(*args, **kwargs)
        if any(math.isnan(score) for score, _ in scores):
            require_finite(torch.tensor(math.nan))
        return scores

    def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
        return super()._model_generate(*args, logits_processor=LogitsProcessorList([_Finite()]), **kwargs)
