"""What cannot be scored ends an evaluation: a score of NaN or of half an answer would look like any other."""

from __future__ import annotations

import math
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import LogitsProcessor, LogitsProcessorList

from lofit.errors import FitError
from lofit.evaluate.window import check_answers, check_room


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
    """The stock ``hf`` model, which raises ``FitError`` where a prediction is no number or an answer does not fit."""

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        check_answers(requests, self.max_length)
        scores: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, *args, **kwargs)
        if any(math.isnan(score) for score, _ in scores):
            require_finite(torch.tensor(math.nan))
        return scores

    def generate_until(self, requests: list[Instance], *args: Any, **kwargs: Any) -> list[str]:
        """Continue each prompt, up to and without a stop sequence.

        Args:
            requests: each with ``(context, settings of generation)``.
            *args: of the stock code.
            **kwargs: of the stock code.
        """
        for given in {repr(request.args[1]): request.args[1] for request in requests}.values():
            check_room(int(normalize_gen_kwargs(given, self.max_gen_toks)["max_gen_toks"]), self.max_length)
        texts: list[str] = super().generate_until(requests, *args, **kwargs)
        return texts

    def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
        return super()._model_generate(*args, logits_processor=LogitsProcessorList([_Finite()]), **kwargs)
