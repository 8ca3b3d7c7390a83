"""Where prompt and answer are in the batch that is being computed, for edits that act on one of them only.

An edit at all positions needs none of this. One that acts at answer positions, or on prompt tokens, has to be told
which they are, and refuses to run where it is not: an edit that silently acts nowhere, or everywhere, is worse than an
error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from lofit.errors import EditError


@dataclass(frozen=True)
class Spans:
    """Prompt and answer of each row of a batch.

    Attributes:
        prompt: bool [batch, length], the prompt's tokens.
        answer: bool [batch, length], the positions whose output predicts answer tokens: the last prompt token and all
            answer tokens. In generation only the last prompt token, and then every generated token.
        generating: whether single tokens follow, which all belong to the answer.
    """

    prompt: torch.Tensor
    answer: torch.Tensor
    generating: bool

    def of(self, x: torch.Tensor) -> Spans:
        """The spans of the positions of ``x`` [batch, length, features].

        Raises:
            EditError: ``x`` is of another batch than the one announced.
        """
        if x.shape[:2] == self.prompt.shape:
            return self
        if self.generating and x.shape[:2] == (len(self.prompt), 1):
            none = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
            return Spans(none, ~none, generating=True)
        raise EditError(
            f"prompt and answer were given for a batch of shape {tuple(self.prompt.shape)}, not {tuple(x.shape[:2])}"
        )


_CURRENT: ContextVar[Spans | None] = ContextVar("spans", default=None)


def current_spans(x: torch.Tensor) -> Spans:
    """Prompt and answer positions of ``x`` [batch, length, features].

    Raises:
        EditError: the caller did not say where they are.
    """
    spans = _CURRENT.get()
    if spans is None:
        raise EditError(
            "this adapter acts on prompt or answer positions only and was not told where they are; run the model "
            "inside lofit.interventions.spans.answer_spans or generation_spans"
        )
    return spans.of(x)


@contextlib.contextmanager
def answer_spans(attention_mask: torch.Tensor, n_answer: torch.Tensor) -> Iterator[None]:
    """Run the model on whole texts.

    Args:
        attention_mask: int64 [batch, length], padded on the left; the last token of each text is not an input.
        n_answer: int64 [batch], number of answer tokens.
    """
    real = attention_mask.bool()
    column = torch.arange(real.shape[1], device=real.device)
    first = real.shape[1] - n_answer.to(real.device)[:, None]  # the last prompt token, which predicts the first answer
    with _set(Spans(prompt=real & (column <= first), answer=real & (column >= first), generating=False)):
        yield


@contextlib.contextmanager
def given_spans(prompt: torch.Tensor, answer: torch.Tensor) -> Iterator[None]:
    """Run the model on rows laid out in another way.

    Args:
        prompt: bool [batch, length], as in :class:`Spans`.
        answer: bool [batch, length], as in :class:`Spans`.
    """
    with _set(Spans(prompt, answer, generating=False)):
        yield


@contextlib.contextmanager
def generation_spans(attention_mask: torch.Tensor) -> Iterator[None]:
    """Run the model on prompts, then on one token at a time with a cache.

    Args:
        attention_mask: int64 [batch, length] of the prompts, padded on the left.
    """
    real = attention_mask.bool()
    last = torch.arange(real.shape[1], device=real.device) == real.shape[1] - 1
    with _set(Spans(prompt=real, answer=last.expand_as(real), generating=True)):
        yield


@contextlib.contextmanager
def _set(spans: Spans) -> Iterator[None]:
    token = _CURRENT.set(spans)
    try:
        yield
    finally:
        _CURRENT.reset(token)
