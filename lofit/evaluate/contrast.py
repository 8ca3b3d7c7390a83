"""RepE's contrast vectors: an edit that depends on the input, computed from two more streams of the same text.

Source: Zou et al. 2023 (arXiv 2310.01405), section 3.2.1; the honesty notebook of andyzoujm/representation-engineering.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from lofit.errors import TaskError
from lofit.evaluate.lm import SpanLM
from lofit.fit.examples import Batch, Example, collate
from lofit.fit.objectives import answer_logits
from lofit.interventions import find_site

TRUTHFUL = " Give a truthful answer."
UNTRUTHFUL = " Give an untruthful answer."
CUE = "\nA:"


def with_instruction(context: str, instruction: str) -> str:
    """Put an instruction after the question, which the last cue of the answer ends.

    Raises:
        TaskError: the prompt does not end with the cue.
    """
    if not context.endswith(CUE):
        raise TaskError(f"contrast vectors need prompts that end with {CUE!r}, found {context[-20:]!r}")
    return context.removesuffix(CUE) + instruction + CUE


@contextlib.contextmanager
def contrasted(model: nn.Module, layers: Sequence[int], alpha: float, answer: torch.Tensor) -> Iterator[None]:
    """Run a batch of three streams - plain, truthful, untruthful - that steer each other.

    After each of the layers alpha (h_truthful - h_untruthful) is added to all three streams at the answer tokens.

    Args:
        model: a plain model.
        layers: decoder layers.
        alpha: strength.
        answer: bool [rows, length], the answer tokens of one stream; they end in the last column of all streams.
    """
    site = find_site(model)

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        _, positive, negative = hidden.chunk(3)
        change = alpha * (positive - negative) * answer[..., None]
        hidden = hidden + change.repeat(3, 1, 1)
        return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

    handles = [model.get_submodule(f"{site.layers}.{layer}").register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class ContrastLM(SpanLM):
    """Scores multiple-choice answers with contrast vectors; cannot generate.

    Args:
        alpha: strength of the edit.
        layer_step: every how many layers it is made, from layer 0.
        **kwargs: of ``HFLM``.
    """

    def __init__(self, *, alpha: float, layer_step: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._alpha = alpha
        self._layers = range(0, find_site(self.model).n_layers, layer_step)

    def _answer_logits(self, examples: Sequence[Example], requests: Sequence[Any]) -> tuple[Batch, torch.Tensor]:
        streams = [list(examples)]
        for instruction in (TRUTHFUL, UNTRUTHFUL):
            stream = []
            for example, ((context, continuation), _, _) in zip(examples, requests, strict=True):
                ids, answer = self._encode_pair(with_instruction(context, instruction), continuation)
                if tuple(answer) != example.ids[example.answer_start :]:
                    raise TaskError(f"the answer {continuation!r} is tokenised differently after {instruction!r}")
                stream.append(Example(tuple(ids + answer), len(ids)))
            streams.append(stream)
        batch = collate(
            [example for stream in streams for example in stream], self.tokenizer.pad_token_id or 0, self.device
        )
        length, size = batch.input_ids.shape[1], len(examples)
        n_answer = (batch.labels[:size] != -100).sum(-1, keepdim=True)
        # Of the answer's tokens the last one is no input, so n_answer - 1 columns belong to the answer.
        answer = torch.arange(length, device=self.device) > length - n_answer
        with contrasted(self.model, self._layers, self._alpha, answer):
            logits = answer_logits(self.model, batch)
        plain = Batch(
            batch.input_ids[:size], batch.attention_mask[:size], batch.position_ids[:size], batch.labels[:size]
        )
        return plain, logits[:size]

    def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
        raise TaskError("contrast vectors score given answers only; choose a multiple-choice task")
