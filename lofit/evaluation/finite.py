"""Checks that end an evaluation if something cannot be scored: the score of NaN or of half an answer looks normal."""

from __future__ import annotations

import math
from functools import cached_property
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
from lofit.models.chat import rendered
from lofit.models.encoding import check_ids, encode, token_ids
from lofit.models.loading import vocabulary_of


def require_finite(values: torch.Tensor) -> None:
    """Check values that were reduced from logits, such as their maximum or log-sum-exp.

    Raises:
        FitError: a value is not finite.
    """
    if not bool(values.isfinite().all()):
        raise FitError(
            "the model predicts NaN or infinity; the edit is too large, or the weights are damaged or overflow in this "
            "precision (dtype)"
        )


class _Finite(LogitsProcessor):
    """Checks that scores are finite, without changing them."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        require_finite(scores.max(-1).values)
        return scores


class TrainingEncoding(TemplateLM):
    """An lm-eval model that tokenizes texts as training does: see :func:`lofit.models.encoding.token_ids`.

    lm-eval's own encoding keeps an end-of-sequence token that a tokenizer appends, in the middle of the scored text,
    and splits context and continuation by the number of tokens of the context alone.
    """

    tokenizer: Any
    vocabulary: int | None = None
    """Number of rows of the model's embedding, if known."""

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        """Decode generated tokens, with a blank at their beginning, which some decoders strip where a text begins."""
        ids = torch.as_tensor(tokens).reshape(-1).tolist()
        before, begun = self._word
        whole = self.tokenizer.decode(before + ids, skip_special_tokens)
        if whole.startswith(begun):
            return str(whole[len(begun) :])
        return str(self.tokenizer.decode(ids, skip_special_tokens))

    @cached_property
    def _word(self) -> tuple[list[int], str]:
        """Tokens of a word, and what they are decoded to."""
        ids = self.tokenizer.encode("a", add_special_tokens=False)
        return ids, self.tokenizer.decode(ids)

    def tok_encode(
        self, string: Any, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **_: Any
    ) -> Any:
        """Tokenize one text, or each of several; ``add_special_tokens=False`` leaves out prepended special tokens.

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

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Word messages as training does: see :func:`lofit.models.chat.rendered`."""
        return rendered(self.tokenizer, chat_history, asks=add_generation_prompt)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        text = encode(self.tokenizer, context, continuation, shown(context))
        check_ids(text.ids, self.vocabulary, shown(context))
        return list(text.ids[: text.answer_start]), list(text.ids[text.answer_start : -1])


def shown(text: str) -> str:
    """Return the name of a text in messages: its end, which distinguishes the prompts of a task."""
    return f"text {text[-40:]!r}"


class CheckedLM(TrainingEncoding, HFLM):
    """The stock ``hf`` model, but with a ``FitError`` if a prediction is not a number or an answer does not fit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.vocabulary = vocabulary_of(self.model)
        if self.tokenizer.pad_token_id >= self.vocabulary:  # generation feeds it to finished rows
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokenize texts to ids and attention mask, each [texts, longest]; of longer texts the last tokens are kept.

        Args:
            strings: the texts.
            padding_side: ``left`` or ``right``.
            left_truncate_len: most tokens of a text; None: no limit.
            truncation: not used, but part of the stock signature; texts are truncated to ``left_truncate_len``.
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
        """Continue each prompt up to a stop sequence, which is left out.

        Args:
            requests: requests with the arguments ``(context, generation settings)``.
            *args: passed on to the stock code.
            **kwargs: passed on to the stock code.
        """
        for given in {repr(request.args[1]): request.args[1] for request in requests}.values():
            check_room(int(normalize_gen_kwargs(given, self.max_gen_toks)["max_gen_toks"]), self.max_length)
        texts: list[str] = super().generate_until(requests, *args, **kwargs)
        return texts

    def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
        return super()._model_generate(*args, logits_processor=LogitsProcessorList([_Finite()]), **kwargs)
