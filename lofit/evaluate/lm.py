"""lm-evaluation-harness on models whose edit depends on where the prompt ends and the answer begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from peft import PeftModel

from lofit.fit.examples import Batch, Example, collate
from lofit.fit.objectives import answer_logits
from lofit.interventions.spans import generation_spans


def needs_spans(model: Any) -> bool:
    """Whether an active adapter of the model acts on prompt or answer positions only."""
    return isinstance(model, PeftModel) and any(
        getattr(model.peft_config[name], "positions", "all") != "all" for name in model.active_adapters
    )


class SpanLM(HFLM):
    """The stock ``hf`` model, except that the adapter is told where prompt and answer are.

    Log-likelihoods are computed on left-padded batches with the output head on the answer alone; requests, their
    encoding and their results are those of the stock model.
    """

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Sum of log-probabilities of the continuation, and whether it is the greedy one, for each request.

        Args:
            requests: ``((context, continuation), context ids, continuation ids)``.
            disable_tqdm: ignored; batches are few.
            override_bs: ignored.
        """
        examples = []
        for _, context, continuation in requests:
            ids = (context + continuation)[-(self.max_length + 1) :]
            examples.append(Example(tuple(ids), len(ids) - len(continuation)))
        order = sorted(range(len(examples)), key=lambda i: (-len(examples[i].ids), i))
        results: dict[int, tuple[float, bool]] = {}
        size = int(self.batch_size_per_gpu)
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            batch, logits = self._answer_logits([examples[i] for i in rows], [requests[i] for i in rows])
            log_probs = logits.log_softmax(-1)
            wanted = batch.labels != -100
            labels = batch.labels.clamp(min=0)
            scores = (log_probs.gather(-1, labels[..., None])[..., 0] * wanted).sum(-1)
            greedy = ((log_probs.argmax(-1) == labels) | ~wanted).all(-1)
            results |= {i: (s, g) for i, s, g in zip(rows, scores.tolist(), greedy.tolist(), strict=True)}
        answers = [results[i] for i in range(len(examples))]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _answer_logits(self, examples: Sequence[Example], requests: Sequence[Any]) -> tuple[Batch, torch.Tensor]:
        """One batch, and the float32 logits [batch, width, vocabulary] that predict its labels."""
        batch = collate(examples, self.tokenizer.pad_token_id or 0, self.device)
        return batch, answer_logits(self.model, batch)

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **kwargs: Any) -> Any:
        with generation_spans(kwargs["attention_mask"]):
            return super()._model_generate(context, max_length, stop, **kwargs)
