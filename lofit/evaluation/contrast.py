"""RepE's contrast vectors: an edit that depends on the input, computed from two more streams of the same text.

Source: Zou et al. 2023 (arXiv 2310.01405), section 3.2.1; andyzoujm/representation-engineering, examples/honesty.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn, cast

import torch
from torch import nn
from transformers import DynamicCache

from lofit.errors import EditError, TaskError
from lofit.evaluation.generation import Ending, decode
from lofit.evaluation.lm import LocalizedLM, Settings
from lofit.evaluation.scoring import Score, Scorer, sums_by_text
from lofit.interventions import find_site
from lofit.models.encoding import Example, token_ids
from lofit.packing.forward import KeyValues, answer_logits, repeated
from lofit.packing.last_layer import LastLayerTrim
from lofit.packing.rows import PAD, packed, unpacked
from lofit.packing.trie import Trie

Layers = Sequence[int | float]
"""Decoder layers: their indices, or shares of the depth."""


def layer_indices(layers: Layers | None, step: int, n_layers: int) -> list[int]:
    """Return the indices of the steered layers, in ascending order.

    Args:
        layers: indices, or shares of the depth (0.5 is layer ``n_layers // 2``); None: every ``step``-th from layer 0.
        step: number of layers from one to the next.
        n_layers: number of layers of the model.

    Raises:
        EditError: there is no such layer.
    """
    if layers is None:
        return list(range(0, n_layers, step))
    chosen = sorted({at if isinstance(at, int) else int(at * n_layers) for at in layers})
    if chosen[-1] >= n_layers:
        raise EditError(
            f"contrast vectors at layer {chosen[-1]}: the model has layers 0 to {n_layers - 1}; correct layers"
        )
    return chosen


def cue_start(context: str, cues: Sequence[str]) -> int:
    """Return where the cue of the answer begins in a prompt: at the last of the cues, which is in its last line.

    Raises:
        TaskError: none of them is there; the line of a cue may be the last but for empty ones.
    """
    start = max(context.rfind(cue) for cue in cues)
    if start < 0 or "\n" in context[start:].strip("\n"):
        shown = f"one of {list(cues)} in the last line, found {context[-40:]!r}"
        raise TaskError(f"contrast vectors need prompts with {shown}; choose another method")
    return start


@contextlib.contextmanager
def contrasted(model: nn.Module, layers: Sequence[int], alpha: float, steered: torch.Tensor) -> Iterator[None]:
    """Context in which a batch consists of three streams (plain, positive, negative), and the last two steer all.

    After each of the layers, alpha (h_positive - h_negative) is added to all three streams at the steered tokens.

    Args:
        model: a plain model.
        layers: decoder layers after which the edit is made.
        alpha: strength of the edit.
        steered: bool [rows or 1, width], the steered tokens of one stream, in the last ``width`` columns of all
            streams; one row stands for all.
    """
    site = find_site(model)

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        width = steered.shape[1]
        _, positive, negative = hidden[:, -width:].chunk(3)
        change = alpha * (positive - negative) * steered[..., None].to(hidden.device)
        hidden = torch.cat([hidden[:, :-width], hidden[:, -width:] + change.repeat(3, 1, 1)], 1)
        return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

    handles = [model.get_submodule(f"{site.layers}.{layer}").register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class ContrastLM(LocalizedLM):
    """Computes scores and generates with contrast vectors.

    The three streams read the prompt, the prompt with the positive instruction, and the one with the negative
    instruction. They are steered from the cue of the answer on: in these tokens they are alike. Answers, given or
    generated, are read by all three; the plain stream decides on the next token.

    Args:
        alpha: strength of the edit.
        layers: decoder layers after which the edit is made, as for :func:`layer_indices`.
        layer_step: number of layers from one edit to the next, if ``layers`` is None.
        positive: instruction that is inserted before the cue.
        negative: its opposite.
        cues: texts with which the cue may begin, as for :func:`cue_start`.
        **kwargs: arguments of ``HFLM``.
    """

    _needs_positions = True

    def __init__(
        self,
        *,
        alpha: float,
        layers: Layers | None,
        layer_step: int,
        positive: str,
        negative: str,
        cues: Sequence[str],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._alpha = alpha
        self._layers = layer_indices(layers, layer_step, find_site(self.model).n_layers)
        self._instructions = (positive, negative)
        self._cues = tuple(cues)
        self._asked: dict[Example, tuple[tuple[str, str], int]] = {}

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[Score]:
        """Score the requests.

        The cue counts as the beginning of the answer, since steering begins there; its tokens are steered, but not
        scored.
        """
        moved = []
        self._asked = {}
        for strings, context, answer in requests:
            cue = self._cue_length(strings[0])
            start = len(context) - cue
            moved.append((strings, context[:start], context[start:] + answer))
            self._asked[self._text(*moved[-1][1:])] = (strings, cue)
        return super()._loglikelihood_tokens(moved, *args, **kwargs)

    def _cue_length(self, context: str) -> int:
        """Return the number of tokens at the end of a prompt that lie entirely in its cue."""
        start = cue_start(context, self._cues)
        length = sum(first >= start for first, _ in token_ids(self.tokenizer, context)[1])
        if not length:
            raise EditError(f"contrast vectors need a token that begins in {context[start:]!r} at the end of a prompt")
        return length

    def _instructed(self, context: str) -> tuple[str, str]:
        """Insert the instructions into a prompt."""
        start = cue_start(context, self._cues)
        positive, negative = (context[:start] + instruction + context[start:] for instruction in self._instructions)
        return positive, negative

    def _unpacked(self, *args: Any) -> NoReturn:
        raise EditError(
            "contrast vectors need a model that takes a block mask, prompts within its attention window, and greedy "
            "decoding; choose another method or model"
        )

    @property
    def _scorer(self) -> Scorer:
        return self._score_steered

    def _score_steered(
        self, model: Any, groups: Sequence[Sequence[Example]], prefix: int, cached: KeyValues, pad_id: int
    ) -> list[Score]:
        """Score rows in three streams, with cues and answers in the same columns of all three."""
        texts = [text for group in groups for text in group]
        streams = [list(groups)]
        for which in (0, 1):
            streams.append([[self._instructed_text(text, which, prefix) for text in group] for group in groups])
        tries = [[Trie(group, prefix)] for stream in streams for group in stream]
        rows = packed(tries, pad_id, model.device, model.dtype, prefix)
        steered = (rows.answer & ~rows.prompt)[: len(groups), -rows.width :]
        with contrasted(model, self._layers, self._alpha, steered):
            logits = answer_logits(model, rows, repeated(cached, len(tries)) if cached else None, LastLayerTrim(model))
        scored = [i >= self._asked[text][1] for text in texts for i in range(text.n_answer)]
        plain = torch.tensor(scored, device=logits.device).nonzero()[:, 0]
        answers = replace(rows, **{name: getattr(rows, name)[plain] for name in ("row", "column", "label", "text")})
        return sums_by_text(logits, answers, len(texts))

    def _instructed_text(self, text: Example, which: int, prefix: int) -> Example:
        """Insert an instruction into a text; the cached prefix may not change."""
        (context, continuation), _ = self._asked[text]
        before, answer = self._encode_pair(self._instructed(context)[which], continuation)
        ids = (*before, *answer)
        if len(ids) > self.max_length + 1:
            raise EditError(
                f"contrast vectors need prompts within the {self.max_length} tokens that the model reads, found "
                f"{len(ids)}; choose another method or model"
            )
        if ids[:prefix] != text.ids[:prefix]:
            raise EditError(f"{context[:20]!r} is tokenised differently before {self._instructions[which]!r}")
        return self._aligned(text, ids)

    def _aligned(self, plain: Example, ids: tuple[int, ...]) -> Example:
        """Return an instructed text, in which the tokens from the cue on may not differ from those of the plain one."""
        start = len(ids) - plain.n_answer
        if ids[start:] != (expected := plain.ids[plain.answer_start :]):
            shown = self.tok_decode(list(expected))
            raise EditError(f"{shown!r} is tokenised differently after {' or '.join(map(repr, self._instructions))}")
        return Example(ids, start)

    def _generates(self, context: str, settings: Settings) -> bool:
        """Whether all streams of a prompt can be decoded; if not, this raises an error."""
        fits = super()._generates
        return all(fits(text, settings) for text in (context, *self._instructed(context))) or self._unpacked()

    @torch.no_grad()
    def _generate(
        self, prompts: Mapping[tuple[int, ...], Sequence[str]], ending: Ending
    ) -> Iterator[tuple[int, list[int]]]:
        """Decode the streams of each prompt together, in batches of prompts of similar length, longest first."""
        texts = [self._streams(ids, contexts[0]) for ids, contexts in prompts.items()]
        order = sorted(range(len(texts)), key=lambda i: -max(len(text.ids) for text in texts[i]))
        size = int(self.batch_size_per_gpu)
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            streams = [text for stream in zip(*(texts[i] for i in batch), strict=True) for text in stream]
            rows, cache = unpacked(streams, PAD, self.device), DynamicCache()
            steered = (rows.answer & ~rows.prompt)[: len(batch), -rows.width :]
            with contrasted(self.model, self._layers, self._alpha, steered):
                logits = answer_logits(self.model, rows, cache)[: len(batch), -1]
            layers = [(layer.keys, layer.values) for layer in cast("list[Any]", cache.layers)]
            del cache
            lengths = rows.attention_mask.sum(-1).to(logits.device)
            with contrasted(self.model, self._layers, self._alpha, steered.new_ones(1, 1)):
                found = decode(self.model, logits, layers, lengths, ending)
            yield from zip(batch, found, strict=True)

    def _streams(self, ids: tuple[int, ...], context: str) -> list[Example]:
        """Return a prompt without and with the instructions, as texts whose answer begins with the cue."""
        plain = Example((*ids, PAD), len(ids) - self._cue_length(context))
        return [plain, *(self._aligned(plain, (*self.tok_encode(text), PAD)) for text in self._instructed(context))]
