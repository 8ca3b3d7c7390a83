"""Language modeling: cross-entropy on text, and the divergence of the predictions from the base model's."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit.errors import FitError
from lofit.evaluation.finite import require_finite
from lofit.interventions.prompt import virtual_tokens
from lofit.interventions.spans import given_spans
from lofit.models.encoding import check_ids, prepended_ids, token_ids
from lofit.models.loading import vocabulary_of
from lofit.packing.forward import run
from lofit.progress import track

WINDOW = 256
"""Tokens of a window, prepended special tokens included; a shorter rest at the end of a document is not scored."""


@torch.no_grad()
def score_text(
    model: PreTrainedModel | PeftModel,
    base: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    task: str,
    *,
    ends: bool = False,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score windows of the texts, one at a time.

    For each window, ``cross_entropy`` is the mean of -log p(token | tokens before it in the window) and ``kl`` is the
    mean over its positions of KL(base || model), both in nats per token. For an edit that acts on prompts or answers
    only, each window counts as both.

    Args:
        model: the model to score.
        base: the base model if ``model`` is another checkpoint; None if it is the base model, or has an adapter that
            can be disabled.
        tokenizer: the model's tokenizer.
        rows: rows with ``id`` and ``text``, and with ``number``, their index, if they are some of the rows only.
        task: name of the task, for the samples.
        ends: score only the last window of every text, as of a prompt, which ends with what is asked.

    Returns:
        As :func:`lofit.evaluation.harness.evaluate`; an item is a window, and the ``doc_id`` of its sample is the
        index of the row.

    Raises:
        FitError: a prediction is not finite, a window is longer than the model reads, or a token is not in the model's
            vocabulary.
    """
    windows = [
        (row.get("number", at), f"{row['id']}-{i}", ids)
        for at, row in enumerate(rows)
        for i, ids in enumerate(_windows(tokenizer, row["text"], ends))
    ]
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31
    reads = most - virtual_tokens(model)
    if (longest := max((len(ids) for _, _, ids in windows), default=0)) > reads:
        raise FitError(f"a window of text has {longest} tokens and the model reads {reads}; choose one that reads more")
    samples: list[dict[str, Any]] = []
    with track("text", len(windows)) as advance:
        for number, name, ids in windows:
            check_ids(ids, vocabulary_of(model), f"text {name}")
            tokens = torch.tensor([ids], device=model.device)
            log_probs = _log_probs(model, tokens)
            with _switched_off(model):
                reference = log_probs if base is None and not isinstance(model, PeftModel) else None
                if reference is None:
                    reference = _log_probs(base or model, tokens)
            loss = functional.nll_loss(log_probs, tokens[0, 1:]).item()
            divergence = functional.kl_div(log_probs, reference, reduction="batchmean", log_target=True).item()
            samples.append(
                {"task": task, "doc_id": number, "doc": {"id": name}, "cross_entropy": loss, "kl": divergence}
            )
            advance("")
    metrics = {name: mean_of([sample[name] for sample in samples]) for name in ("cross_entropy", "kl")}
    return {"n_items": len(samples), "n_truncated": 0, "metrics": metrics, "task_version": {task: WINDOW}}, samples


def _windows(tokenizer: PreTrainedTokenizerBase, text: str, ends: bool = False) -> list[list[int]]:
    """Return the token ids of a text's windows, each with the tokenizer's prepended special tokens."""
    begin = prepended_ids(tokenizer, text)
    ids, size = token_ids(tokenizer, text)[0][len(begin) :], WINDOW - len(begin)
    if ends:
        return [begin + ids[-size:]]
    return [begin + ids[start : start + size] for start in range(0, len(ids) - size + 1, size)] or [begin + ids]


def _log_probs(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Compute the float32 log-probabilities [length - 1, vocabulary] of each next token."""
    everywhere = torch.ones(tokens.shape[0], tokens.shape[1], dtype=torch.bool, device=tokens.device)
    with given_spans(prompt=everywhere, answer=everywhere):
        logits = run(model, input_ids=tokens, use_cache=False).logits
    log_probs = torch.log_softmax(logits[0, :-1].float(), -1)
    require_finite(log_probs.amax(-1))
    return log_probs


@contextlib.contextmanager
def _switched_off(model: Any) -> Iterator[None]:
    with model.disable_adapter() if isinstance(model, PeftModel) else contextlib.nullcontext():
        yield


def mean_of(values: Sequence[float]) -> dict[str, float | None]:
    """Compute the mean and its standard error (None for a single value)."""
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"value": statistics.fmean(values), "stderr": spread}
