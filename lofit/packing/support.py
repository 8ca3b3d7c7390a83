"""Find out which models can run on packed rows."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel

from lofit.errors import EditError, FitError
from lofit.interventions.prompt import virtual_tokens
from lofit.interventions.spans import counts_tokens
from lofit.models.encoding import Example
from lofit.models.memory import out_of_memory
from lofit.packing.forward import answer_log_probs, prefill, repeated
from lofit.packing.last_layer import LastLayerTrim
from lofit.packing.rows import PAD, Rows, packed, unpacked
from lofit.packing.trie import Trie


def longest_packable(model: Any) -> int:
    """Return the number of tokens of the longest text that can be packed; 0 if the model takes no block mask at all.

    Packing needs explicit position ids, attention that is a masked softmax, and no attention window shorter than the
    text. Texts behind virtual tokens have to fit into what the model reads: they are not cut, nor run in another way.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    config = base.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) | {"full_attention"}
    if (
        counts_tokens(model)
        or "position_ids" not in inspect.signature(base.forward).parameters
        or getattr(config, "alibi", False)
        or base._is_stateful
        or config._attn_implementation not in {"sdpa", "eager"}
        or kinds - {"full_attention", "sliding_attention", "chunked_attention"}
        or "local" in (getattr(config, "attention_layers", None) or ())  # GPT-Neo, whose window is of columns
    ):
        return 0
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size")]
    if getattr(config, "use_sliding_window", None) is False:
        windows[0] = None
    if n := virtual_tokens(model):
        reads = getattr(config, "max_position_embeddings", None)
        windows.append(reads and reads + 1)  # the last token of a text is only predicted
    return min((int(window) for window in windows if window), default=2**31) - n


def refuse_virtual_tokens(model: Any, longest: int) -> None:
    """Check that a model that cannot run on packed rows has no virtual tokens: they would be apart from padded texts.

    Args:
        model: the model.
        longest: tokens of the longest text, the last of which is only predicted.

    Raises:
        FitError: it has, and the text is too long.
        EditError: it has, and the model or what is asked for is the reason.
    """
    if n := virtual_tokens(model):
        if 0 < (most := longest_packable(model)) < longest:
            raise FitError(
                f"a text has {longest} tokens, and {most} fit beside the {n} virtual tokens in what the model reads; "
                "give fewer virtual tokens, or choose another method or model"
            )
        raise EditError(
            "virtual tokens need a model that takes a block mask, and keys and values in front of a text, and greedy "
            "decoding; choose another method or model"
        )


@torch.no_grad()
def supports_packing(model: Any) -> bool:
    """Whether the model gives packed texts, with and without a cached prefix, the same scores as unpacked texts.

    Log-probabilities of tokens may differ by 0.01 nats plus 1% of their magnitude. In half precision, rounding alone
    can exceed that, so there the bound on the mean difference is an eighth of what ignoring the block mask changes.
    Behind virtual tokens a text sees less of itself and of others; whether the mask holds is found out without them.
    """
    vocabulary = model.config.get_text_config().vocab_size
    # The same tokens for all vocabularies of a size, drawn from the whole vocabulary.
    ids = torch.randint(vocabulary, (12,), generator=torch.Generator().manual_seed(0)).tolist()
    texts = [Example((*ids[:8], *ids[8:11]), 8), Example((*ids[:8], *ids[9:]), 7), Example((*ids[:9], ids[2]), 8)]
    try:
        if not virtual_tokens(model):
            return _same_packed(model, ids, texts)
        answer_log_probs(model, unpacked(texts, PAD, model.device))  # the family may have no place for them
        with model.disable_adapter():
            return _same_packed(model, ids, texts)
    except Exception as error:  # a family can reject the mask with any error; running out of memory is no answer
        if out_of_memory(error):
            raise
        return False


def _same_packed(model: Any, ids: list[int], texts: list[Example]) -> bool:
    expected = answer_log_probs(model, unpacked(texts, PAD, model.device))
    for prefix, groups in ((3, [[texts]]), (0, [[texts[:1], texts[1:]]])):
        tries = [[Trie(group, prefix) for group in row] for row in groups]
        together = packed(tries, PAD, model.device, model.dtype, prefix)

        def scores(rows: Rows, prefix: int = prefix, n: int = len(tries)) -> torch.Tensor:
            return answer_log_probs(model, rows, repeated(prefill(model, ids[:prefix]), n), LastLayerTrim(model))

        found = scores(together)
        if model.dtype in (torch.float32, torch.float64):
            holds = torch.allclose(found, expected, rtol=1e-2, atol=1e-2)
        else:
            leaking = scores(replace(together, attention_mask=_every_column_before(together)))
            holds = bool((found - expected).abs().mean() <= (leaking - expected).abs().mean() / 8)
        if not holds:
            return False
    return True


def _every_column_before(rows: Rows) -> torch.Tensor:
    """Return the mask of a model that ignores the block mask: each column attends to itself and all before it."""
    mask = rows.attention_mask
    length, behind = mask.shape[2], mask.shape[3] - mask.shape[2]
    seen = torch.ones(length, behind + length, dtype=torch.bool, device=mask.device).tril(behind)
    return torch.zeros_like(mask).masked_fill_(~seen, torch.finfo(mask.dtype).min)
