"""A model that ``device_map`` spread over devices carries accelerate's hooks, beside which our forward pass holds.

The hooks are the real ones, but all of them move to the CPU: a test must not need two GPUs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from peft import LoraConfig, PeftConfig, get_peft_model

from lofit.interventions import LofitConfig
from lofit.models.encoding import Example
from lofit.packing.forward import answer_log_probs, prefill, repeated
from lofit.packing.last_layer import LastLayerTrim
from lofit.packing.rows import packed
from lofit.packing.trie import Trie
from tests.tiny import tiny_model

PREFIX = 3
TEXTS = [Example((*range(20, 28), 3, 4), 8), Example((*range(20, 28), 5), 8)]
SETTINGS: dict[str, PeftConfig] = {
    "offsets": LofitConfig(heads=[(0, 1), (1, 0), (2, 3)], scale=False, offset=True, init_std=0.1),
    "scales and offsets": LofitConfig(heads=None, scale=True, offset=True, init_std=0.1),
    "feed-forward": LofitConfig(site="ffn", scale=True, offset=True, init_std=0.1),
    "at answers": LofitConfig(heads=[(0, 1), (2, 3)], scale=False, offset=True, positions="answer", init_std=0.1),
    "lora": LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False),
}


def with_hooks(model: Any) -> Any:
    """The hooks of ``dispatch_model`` on every layer and on the whole."""
    for module in [model.model.embed_tokens, *model.model.layers, model.model.norm, model.lm_head]:
        add_hook_to_module(module, AlignDevicesHook(execution_device="cpu"))
    return add_hook_to_module(model, AlignDevicesHook(execution_device="cpu", io_same_device=True))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_model_with_hooks_computes_what_a_plain_one_does(name: str) -> None:
    found = []
    for prepare in (lambda model: model, with_hooks):
        torch.manual_seed(0)
        model = get_peft_model(prepare(tiny_model("llama")), SETTINGS[name]).eval()
        rows = packed([[Trie(TEXTS, PREFIX)]], 0, torch.device("cpu"), torch.float32, PREFIX)
        cache = repeated(prefill(model, list(TEXTS[0].ids[:PREFIX])), 1)
        loss = answer_log_probs(model, rows, cache, LastLayerTrim(model)).sum()
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.requires_grad)])
    assert len(found[0]) > 2
    torch.testing.assert_close(found[1], found[0])
