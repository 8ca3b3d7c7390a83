"""lm-evaluation-harness's ``hf`` model, faster, and for edits that depend on where the prompt ends."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from peft import PeftModel

from lofit.evaluate.packing import Score, Scorer, longest_packable, packing_holds, score_packed, score_rows
from lofit.fit.examples import Example, collate
from lofit.fit.objectives import answer_logits
from lofit.interventions import LoreftConfig
from lofit.interventions.spans import generation_spans
from lofit.progress import track


class LocalizedLM(HFLM):
    """The stock ``hf`` model, except for how a log-likelihood is computed.

    Requests, their encoding and their results are those of the stock model. The answers to one question share a row and
    all questions their preamble (:mod:`lofit.evaluate.trie`), the output head runs on answers alone, and an adapter is
    told where prompt and answer are. A model for which a block mask cannot be right is left to the stock code, or, if
    its adapter has to know the positions, computes each text in a row of its own.
    """

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Score]:
        """Sum of log-probabilities of the continuation, and whether it is the greedy one, for each request.

        Args:
            requests: ``((context, continuation), context ids, continuation ids)``.
            disable_tqdm: passed on to the stock code; ours reports as all nodes do.
            override_bs: passed on to the stock code; rows have a size of their own.
        """
        texts = [self._text(context, continuation) for _, context, continuation in requests]
        if self._packs and max((len(text.ids) for text in texts), default=0) <= longest_packable(self.model):
            results = self._packed(texts)
        elif self._needs_positions:
            results = self._apart(texts)
        else:
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        answers = [results[text] for text in texts]
        for (strings, _, _), answer in zip(requests, answers, strict=True):
            if strings is not None:
                self.cache_hook.add_partial("loglikelihood", strings, answer)
        return answers

    def _text(self, context: list[int], continuation: list[int]) -> Example:
        """Context and continuation, cut on the left to what the model can read."""
        ids = (context + continuation)[-(self.max_length + 1) :]
        return Example(tuple(ids), len(ids) - len(continuation))

    @functools.cached_property
    def _packs(self) -> bool:
        """Whether texts can share rows. LoReFT counts the tokens of each prompt, so it needs them in one piece."""
        counts = isinstance(self.model, PeftModel) and any(
            isinstance(self.model.peft_config[name], LoreftConfig) for name in self.model.active_adapters
        )
        return not counts and longest_packable(self.model) > 0 and packing_holds(self.model)

    @property
    def _needs_positions(self) -> bool:
        return needs_spans(self.model)

    @property
    def _scorer(self) -> Scorer:
        return score_rows

    @property
    def _pad_id(self) -> int:
        return self.tokenizer.pad_token_id or 0

    def _packed(self, texts: Sequence[Example]) -> dict[Example, Score]:
        """Scores of the texts, those that share a prompt in one row."""
        rows: dict[tuple[int, ...], list[Example]] = {}
        for text in dict.fromkeys(texts):
            rows.setdefault(text.ids[: text.answer_start], []).append(text)
        groups = list(rows.values())
        results: dict[Example, Score] = {}
        with track("scoring", len(groups)) as advance:
            for i, scores in score_packed(self.model, groups, self._pad_id, int(self.batch_size_per_gpu), self._scorer):
                results |= zip(groups[i], scores, strict=True)
                advance("")
        return results

    @torch.no_grad()
    def _apart(self, texts: Sequence[Example]) -> dict[Example, Score]:
        """Scores of the texts, each in a row of its own, padded on the left."""
        order = sorted(dict.fromkeys(texts), key=lambda text: (-len(text.ids), text.ids))
        size = int(self.batch_size_per_gpu)
        results: dict[Example, Score] = {}
        with track("scoring", -(-len(order) // size)) as advance:
            for start in range(0, len(order), size):
                part = order[start : start + size]
                batch = collate(part, self._pad_id, self.device)
                log_probs = answer_logits(self.model, batch).log_softmax(-1)
                wanted, labels = batch.labels != -100, batch.labels.clamp(min=0)
                scores = (log_probs.gather(-1, labels[..., None])[..., 0] * wanted).sum(-1).tolist()
                greedy = ((log_probs.argmax(-1) == labels) | ~wanted).all(-1).tolist()
                results |= zip(part, zip(scores, greedy, strict=True), strict=True)
                advance("")
        return results

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **kwargs: Any) -> Any:
        with generation_spans(kwargs["attention_mask"]):
            return super()._model_generate(context, max_length, stop, **kwargs)


def needs_spans(model: Any) -> bool:
    """Whether an active adapter of the model acts on prompt or answer positions only."""
    return isinstance(model, PeftModel) and any(
        getattr(model.peft_config[name], "positions", "all") != "all" for name in model.active_adapters
    )
