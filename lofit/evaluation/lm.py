"""A faster ``hf`` model for lm-evaluation-harness, which also supports edits that depend on where the prompt ends."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from lofit.evaluation.finite import CheckedLM
from lofit.evaluation.generation import Ending, generate
from lofit.evaluation.scoring import Score, Scorer, score_packed, score_rows, sums_by_text
from lofit.evaluation.window import check_answers
from lofit.interventions.spans import generation_spans, needs_spans
from lofit.models.encoding import Example
from lofit.packing.forward import answer_logits
from lofit.packing.rows import PAD, unpacked
from lofit.packing.support import longest_packable, refuse_virtual_tokens, supports_packing
from lofit.progress import track

# Stop sequences, most tokens to generate, and whether nothing but greedy decoding is asked for.
Settings = tuple[list[str], int, bool]


class LocalizedLM(CheckedLM):
    """The stock ``hf`` model, except for how its results are computed.

    Requests and results are those of the stock model. The answers to one question share a row and all questions share
    their preamble (:mod:`lofit.packing.trie`), the output head runs on answers only, and adapters get the positions of
    prompt and answer. A model that cannot be packed runs the stock code, or one text per row if its adapter needs the
    positions. A model with virtual tokens is never run on anything but packed rows.
    """

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Score]:
        """Sum the log-probabilities of each continuation, and check whether it is the greedy one.

        Args:
            requests: ``((context, continuation), context ids, continuation ids)``.
            disable_tqdm: only for the stock code; otherwise progress is shown as in all nodes.
            override_bs: only for the stock code.
        """
        check_answers(requests, self.max_length)
        texts = [self._text(context, continuation) for _, context, continuation in requests]
        if self._can_pack and max((len(text.ids) for text in texts), default=0) <= longest_packable(self.model):
            results = self._packed(texts)
        else:
            longest = max((len(context) + len(answer) for _, context, answer in requests), default=0)
            refuse_virtual_tokens(self.model, longest)
            if not self._needs_positions:
                return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
            results = self._unpacked(texts)
        answers = [results[text] for text in texts]
        for (strings, _, _), answer in zip(requests, answers, strict=True):
            if strings is not None:
                self.cache_hook.add_partial("loglikelihood", strings, answer)
        return answers

    def _text(self, context: list[int], continuation: list[int]) -> Example:
        """Join context and continuation, with the context truncated on the left to what the model can read."""
        ids = (context + continuation)[-(self.max_length + 1) :]
        return Example(tuple(ids), len(ids) - len(continuation))

    @functools.cached_property
    def _can_pack(self) -> bool:
        """Whether texts can share rows."""
        return longest_packable(self.model) > 0 and supports_packing(self.model)

    @property
    def _needs_positions(self) -> bool:
        return needs_spans(self.model)

    @property
    def _scorer(self) -> Scorer:
        return score_rows

    def _packed(self, texts: Sequence[Example]) -> dict[Example, Score]:
        """Score the texts, with those that share a prompt in one row."""
        rows: dict[tuple[int, ...], list[Example]] = {}
        for text in dict.fromkeys(texts):
            rows.setdefault(text.ids[: text.answer_start], []).append(text)
        groups = list(rows.values())
        results: dict[Example, Score] = {}
        with track("scoring", len(groups)) as advance:
            for i, scores in score_packed(self.model, groups, PAD, int(self.batch_size_per_gpu), self._scorer):
                results |= zip(groups[i], scores, strict=True)
                advance("")
        return results

    @torch.no_grad()
    def _unpacked(self, texts: Sequence[Example]) -> dict[Example, Score]:
        """Score the texts, one per row, with left-padding."""
        order = sorted(dict.fromkeys(texts), key=lambda text: (-len(text.ids), text.ids))
        size = int(self.batch_size_per_gpu)
        results: dict[Example, Score] = {}
        with track("scoring", -(-len(order) // size)) as advance:
            for start in range(0, len(order), size):
                part = order[start : start + size]
                rows = unpacked(part, PAD, self.device)
                results |= zip(part, sums_by_text(answer_logits(self.model, rows), rows, len(part)), strict=True)
                advance("")
        return results

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue each prompt up to a stop sequence, which is left out.

        Args:
            requests: requests with the arguments ``(context, generation settings)``.
            disable_tqdm: only for the stock code; otherwise progress is shown as in all nodes.
        """
        asked = [request.args for request in requests]
        settings = {repr(given): self._settings(given) for _, given in asked}
        if not all(self._generates(context, settings[repr(given)]) for context, given in asked):
            lengths = (self._length(context) + settings[repr(given)][1] for context, given in asked)
            refuse_virtual_tokens(self.model, max(lengths))
            return super().generate_until(requests, disable_tqdm)
        results: dict[tuple[str, str], str] = {}
        for name, (until, n_tokens, _) in settings.items():
            contexts = list(dict.fromkeys(context for context, given in asked if repr(given) == name))
            for context, text in self._continuations(contexts, until, n_tokens).items():
                results[context, name] = text
        texts = [results[context, repr(given)] for context, given in asked]
        for request, text in zip(asked, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request, text)
        return texts

    def _settings(self, given: dict[str, Any]) -> Settings:
        """Return stop sequences, most tokens to generate, and whether nothing but greedy decoding is asked for."""
        kwargs = normalize_gen_kwargs(given, self.max_gen_toks)
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        until = [stop for stop in handle_stop_sequences(kwargs.pop("until", None), eos=eos) if stop]
        n_tokens = int(kwargs.pop("max_gen_toks"))
        greedy = not kwargs.pop("do_sample", False) and not kwargs.pop("temperature", 0.0)
        return until, n_tokens, greedy and not kwargs and self.think_end_token is None

    def _generates(self, context: str, settings: Settings) -> bool:
        """Whether :func:`lofit.evaluation.generation.generate` can do what the stock code would do."""
        _, n_tokens, plain = settings
        return (
            plain
            and self._can_pack
            and self._length(context) + n_tokens <= min(longest_packable(self.model), self.max_length)
        )

    def _length(self, context: str) -> int:
        return len(self.tok_encode(context))

    def _continuations(self, contexts: Sequence[str], until: list[str], n_tokens: int) -> dict[str, str]:
        by_ids: dict[tuple[int, ...], list[str]] = {}
        for context in contexts:
            by_ids.setdefault(tuple(self.tok_encode(context)), []).append(context)
        prompts = list(by_ids)
        look_back = 2 + max(len(self.tokenizer.encode(stop, add_special_tokens=False)) for stop in until)

        def is_done(ids: list[int]) -> bool:
            recent = self.tok_decode(ids[-look_back:])
            return any(stop in recent for stop in until) and any(stop in self.tok_decode(ids) for stop in until)

        eos = self.model.generation_config.eos_token_id
        # Training texts end with the tokenizer's end-of-sequence, whatever the generation config says.
        ends = [*(eos if isinstance(eos, list) else [eos]), self.eot_token_id]
        results: dict[str, str] = {}
        with track("generating", len(prompts)) as advance:
            for i, ids in self._generate(by_ids, (n_tokens, is_done, ends)):
                text = postprocess_generated_text(self.tok_decode(ids), until, None)
                results |= dict.fromkeys(by_ids[prompts[i]], text)
                advance("")
        return results

    def _generate(
        self, prompts: Mapping[tuple[int, ...], Sequence[str]], ending: Ending
    ) -> Iterator[tuple[int, list[int]]]:
        """Yield the index of each prompt and its continuation.

        Args:
            prompts: token ids, and the texts that they stand for.
            ending: where continuations end.
        """
        return generate(self.model, list(prompts), ending, PAD, int(self.batch_size_per_gpu))

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **kwargs: Any) -> Any:
        with generation_spans(kwargs["attention_mask"]):
            return super()._model_generate(context, max_length, stop, **kwargs)
