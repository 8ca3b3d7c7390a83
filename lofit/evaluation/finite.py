"""What cannot be scored ends an evaluation: a score of NaN or of half an answer would look like any other."""

from __future__ import annotations

import math
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessor, LogitsProcessorList

from lofit.errors import FitError
from lofit.evaluation.window import check_answers, check_room
from lofit.models.encoding import check_ids, encode, token_ids
from lofit.models.loading import vocabulary_of


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


class OneEncoding(TemplateLM):
    """An lm-eval model that reads texts as they are read in training: see :func:`lofit.models.encoding.token_ids`.

    lm-eval's own encoding keeps an end-of-sequence that a tokenizer appends, in the middle of what is scored, and
    divides context and continuation by the number of tokens of the context alone.
    """

    tokenizer: Any
    vocabulary: int | None = None
    """Rows of the model's embedding, where they are known."""

    def tok_encode(
        self, string: Any, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **_: Any
    ) -> Any:
        """Ids of a text, or of each of several, with what the tokenizer puts in front unless it is not wanted.

        Raises:
            FitError: a token has no row in the embedding.
        """
        if not isinstance(string, str):
            return [self.tok_encode(text, add_special_tokens, left_truncate_len) for text in string]
        if add_special_tokens is False:
            ids = self.tokenizer(string, add_special_tokens=False, verbose=False)["input_ids"]
        else:
            ids, _offsets = token_ids(self.tokenizer, string)
        check_ids(ids, self.vocabulary, shown(string))
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        text = encode(self.tokenizer, context, continuation, shown(context))
        check_ids(text.ids, self.vocabulary, shown(context))
        return list(text.ids[: text.answer_start]), list(text.ids[text.answer_start : -1])


def shown(text: str) -> str:
    """What a text is called in messages: its end, which tells prompts of one task from each other."""
    return f"text {text[-40:]!r}"


class FiniteLM(OneEncoding, HFLM):
    """The stock ``hf`` model, which raises ``FitError`` where a prediction is no number or an answer does not fit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.vocabulary = vocabulary_of(self.model)
        if self.tokenizer.pad_token_id >= self.vocabulary:  # generation feeds it to rows that are done
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and attention mask [texts, longest]; of longer texts the end, on the side that is not padded.

        Args:
            strings: the texts.
            padding_side: ``left`` or ``right``.
            left_truncate_len: most tokens of a text; None: any.
            truncation: of the stock code, not used: what is too long is cut by ``left_truncate_len``.
        """
        ids = [torch.tensor(self.tok_encode(text, left_truncate_len=left_truncate_len)) for text in strings]
        masks = [torch.ones_like(row) for row in ids]
        both = (pad_sequence(rows, batch_first=True, padding_side=padding_side) for rows in (ids, masks))
        return tuple(both)  # type: ignore[return-value]

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
