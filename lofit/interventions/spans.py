"""Positions of prompt and answer in the batch that is being computed, for edits that act on one of them only.

An edit at all positions does not need them. An edit at answer positions, or on prompt tokens, raises an error if they
are not given: an edit that silently acts nowhere, or everywhere, would be worse.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from lofit.errors import EditError


@dataclass(frozen=True)
class Spans:
    """Prompt and answer of each row of a batch.

    Attributes:
        prompt: bool [batch, length], the tokens of the prompt.
        answer: bool [batch, length], the positions that predict answer tokens: the last prompt token and all answer
            tokens. During generation, it is only the last prompt token, and then every generated token.
        generating: whether single tokens follow, which all belong to the answer.
    """

    prompt: torch.Tensor
    answer: torch.Tensor
    generating: bool

    def of(self, x: torch.Tensor) -> Spans:
        """Return the spans for the positions of ``x`` [batch, length, features], on its device.

        Some modules (of OPT) read [batch x length, features]; the spans are then flat, too.

        Raises:
            EditError: the shape of ``x`` is not that of the batch for which the spans were given.
        """
        shape = x.shape[:-1]
        if shape in (self.prompt.shape, (self.prompt.numel(),)):
            prompt, answer = (mask.reshape(shape).to(x.device) for mask in (self.prompt, self.answer))
            return Spans(prompt, answer, self.generating)
        if self.generating and shape in ((len(self.prompt), 1), (len(self.prompt),)):
            none = torch.zeros(shape, dtype=torch.bool, device=x.device)
            return Spans(none, ~none, generating=True)
        raise EditError(
            f"prompt and answer were given for a batch of shape {tuple(self.prompt.shape)}, not {tuple(shape)}"
        )


_CURRENT: ContextVar[Spans | None] = ContextVar("spans", default=None)


def current_spans(x: torch.Tensor) -> Spans:
    """Return the prompt and answer positions of ``x`` [batch, length, features].

    Raises:
        EditError: they were not given, or are those of another batch.
    """
    spans = _CURRENT.get()
    if spans is None:
        raise EditError(
            "this adapter acts on prompt or answer positions only and was not told where they are; run the model "
            "inside lofit.interventions.spans.given_spans or generation_spans"
        )
    return spans.of(x)


def needs_spans(model: Any) -> bool:
    """Whether an active adapter of the model acts on prompt or answer positions only."""
    return any(getattr(config, "positions", "all") != "all" for config in _active_configs(model))


def counts_tokens(model: Any) -> bool:
    """Whether an active adapter counts the tokens of each prompt (LoReFT), so that texts cannot be packed."""
    return any(getattr(config, "positions", "all") == "prompt" for config in _active_configs(model))


def _active_configs(model: Any) -> list[Any]:
    return [model.peft_config[name] for name in model.active_adapters] if hasattr(model, "peft_config") else []


@contextlib.contextmanager
def given_spans(prompt: torch.Tensor, answer: torch.Tensor) -> Iterator[None]:
    """Context in which the model runs on whole texts.

    Args:
        prompt: bool [batch, length], as in :class:`Spans`.
        answer: bool [batch, length], as in :class:`Spans`.
    """
    with _set(Spans(prompt, answer, generating=False)):
        yield


def resumed() -> contextlib.AbstractContextManager[None]:
    """Return a context with the current positions of prompt and answer, to recompute something in it later."""
    return _set(_CURRENT.get())


@contextlib.contextmanager
def generation_spans(attention_mask: torch.Tensor) -> Iterator[None]:
    """Context in which the model runs on prompts, then on one token at a time with a cache.

    Args:
        attention_mask: int64 [batch, length], the mask of the prompts, which are left-padded.
    """
    real = attention_mask.bool()
    last = torch.arange(real.shape[1], device=real.device) == real.shape[1] - 1
    with _set(Spans(prompt=real, answer=last.expand_as(real), generating=True)):
        yield


@contextlib.contextmanager
def _set(spans: Spans | None) -> Iterator[None]:
    token = _CURRENT.set(spans)
    try:
        yield
    finally:
        _CURRENT.reset(token)
