"""RepE's contrast vectors: an edit that depends on the input, computed from two more streams of the same text.

Source: Zou et al. 2023 (arXiv 2310.01405), section 3.2.1; the honesty notebook of andyzoujm/representation-engineering.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import nn

from lofit.errors import EditError, TaskError
from lofit.evaluation.lm import LocalizedLM
from lofit.evaluation.scoring import Score, Scorer, sums_by_text
from lofit.interventions import find_site
from lofit.models.encoding import Example, token_ids
from lofit.packing.forward import KeyValues, answer_logits, repeated
from lofit.packing.last_layer import LastLayerTrim
from lofit.packing.rows import packed
from lofit.packing.trie import Trie

TRUTHFUL = " Give a truthful answer."
UNTRUTHFUL = " Give an untruthful answer."
CUE = "\nA:"


def with_instruction(context: str, instruction: str) -> str:
    """Insert an instruction between the question and the cue of the answer, which ends the prompt.

    Raises:
        TaskError: the prompt does not end with the cue.
    """
    if not context.endswith(CUE):
        raise TaskError(f"contrast vectors need prompts that end with {CUE!r}, found {context[-20:]!r}")
    return context.removesuffix(CUE) + instruction + CUE


@contextlib.contextmanager
def contrasted(model: nn.Module, layers: Sequence[int], alpha: float, steered: torch.Tensor) -> Iterator[None]:
    """Context in which a batch consists of three streams (plain, truthful, untruthful), and the last two steer all.

    After each of the layers, alpha (h_truthful - h_untruthful) is added to all three streams at the steered tokens.

    Args:
        model: a plain model.
        layers: decoder layers after which the edit is made.
        alpha: strength of the edit.
        steered: bool [rows, width], the steered tokens of one stream, in the last ``width`` columns of all streams.
    """
    site = find_site(model)

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        width = steered.shape[1]
        _, positive, negative = hidden[:, -width:].chunk(3)
        change = alpha * (positive - negative) * steered[..., None]
        hidden = torch.cat([hidden[:, :-width], hidden[:, -width:] + change.repeat(3, 1, 1)], 1)
        return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

    handles = [model.get_submodule(f"{site.layers}.{layer}").register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class ContrastLM(LocalizedLM):
    """Scores multiple-choice answers with contrast vectors; cannot generate.

    Args:
        alpha: strength of the edit.
        layer_step: number of layers from one edit to the next, starting at layer 0.
        **kwargs: arguments of ``HFLM``.
    """

    _needs_positions = True

    def __init__(self, *, alpha: float, layer_step: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._alpha = alpha
        self._layers = range(0, find_site(self.model).n_layers, layer_step)
        self._strings: dict[Example, tuple[str, str]] = {}
        self._cues: dict[Example, int] = {}

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[Score]:
        """Score the requests.

        The cue counts as the beginning of the answer, since steering begins there; its tokens are steered, but not
        scored.
        """
        moved = []
        self._strings, self._cues = {}, {}
        for strings, context, answer in requests:
            cue = self._cue_length(strings[0])
            start = len(context) - cue
            moved.append((strings, context[:start], context[start:] + answer))
            text = self._text(*moved[-1][1:])
            self._strings[text], self._cues[text] = strings, cue
        return super()._loglikelihood_tokens(moved, *args, **kwargs)

    def _cue_length(self, context: str) -> int:
        """Return the number of tokens at the end of a prompt that lie entirely in its cue."""
        start = len(context) - len(CUE)
        length = sum(first >= start for first, _ in token_ids(self.tokenizer, context)[1])
        if not length:
            raise EditError(f"contrast vectors need a token that begins in {CUE!r} at the end of a prompt")
        return length

    def _unpacked(self, *args: Any) -> NoReturn:
        raise EditError(
            "contrast vectors need a model that takes a block mask, and prompts within its attention window; choose "
            "another method or model"
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
        for instruction in (TRUTHFUL, UNTRUTHFUL):
            streams.append([[self._instructed(text, instruction, prefix) for text in group] for group in groups])
        tries = [[Trie(group, prefix)] for stream in streams for group in stream]
        rows = packed(tries, pad_id, model.device, model.dtype, prefix)
        steered = (rows.answer & ~rows.prompt)[: len(groups), -rows.width :]
        with contrasted(model, self._layers, self._alpha, steered):
            logits = answer_logits(model, rows, repeated(cached, len(tries)) if cached else None, LastLayerTrim(model))
        scored = [i >= self._cues[text] for text in texts for i in range(text.n_answer)]
        plain = torch.tensor(scored, device=logits.device).nonzero()[:, 0]
        answers = replace(rows, **{name: getattr(rows, name)[plain] for name in ("row", "column", "label", "text")})
        return sums_by_text(logits, answers, len(texts))

    def _instructed(self, text: Example, instruction: str, prefix: int) -> Example:
        """Insert an instruction into a text; neither the cached prefix nor the tokens from the cue on may change."""
        context, continuation = self._strings[text]
        before, answer = self._encode_pair(with_instruction(context, instruction), continuation)
        ids = (*before, *answer)
        if len(ids) > self.max_length + 1:
            raise EditError(
                f"contrast vectors need prompts within the {self.max_length} tokens that the model reads, found "
                f"{len(ids)}; choose another method or model"
            )
        start = len(ids) - text.n_answer
        if ids[start:] != text.ids[text.answer_start :] or ids[:prefix] != text.ids[:prefix]:
            raise EditError(f"{CUE + continuation!r} is tokenised differently after {instruction!r}")
        return Example(ids, start)

    def generate_until(self, *args: Any, **kwargs: Any) -> Any:
        raise EditError("contrast vectors score given answers only; choose a multiple-choice task")
