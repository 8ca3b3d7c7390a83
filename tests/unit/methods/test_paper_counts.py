"""Trained parameters on the shapes of Llama-2-7B are those of the LoFiT paper (Table 3)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lofit.methods import bias_all_heads, lora, loreft, red, red_half
from lofit.methods import lofit as lofit_method
from lofit.models.session import Session
from lofit.training.context import FitContext
from lofit.training.trainer import wrap


def trained(adapter: Any, params: Any, k: int = 0) -> int:
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig()).requires_grad_(False)  # the defaults are Llama-2-7B's
        session = Session(model=model, tokenizer=None, objective="sft", train=[], validation=[], seed=0)  # type: ignore[arg-type]
        context = FitContext("t", "llama-2-7b/x/fold0", 0, 32, 32, lambda: session, (k,) if k else ())
        context.heads = lambda k: [(i // 32, i % 32) for i in range(k)]  # type: ignore[method-assign]
        made = wrap(session, adapter(params, context))
    return sum(p.numel() for p in made.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("module", "values", "k", "count"),
    [
        (lofit_method, {}, 96, 12_288),
        (red, {}, 0, 262_144),
        (red_half, {}, 0, 131_072),
        (lora, {"rank": 8, "alpha": 8, "dropout": 0.1}, 0, 4_194_304),
        (loreft, {"rank": 8}, 0, 2_097_152 + 32 * 8),  # "2.10M", with its biases
        (bias_all_heads, {}, 0, 32 * 32 * 128),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_counts(module: Any, values: dict[str, Any], k: int, count: int) -> None:
    form = module.METHOD.Params
    assert trained(module.adapter, form(lr=0.01, **values), k) == count
