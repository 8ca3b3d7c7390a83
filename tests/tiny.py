"""Tiny random causal language models of several families, for tests; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 128
LAYERS = 3
HEADS = 4
HIDDEN = 32

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "gemma": {"num_key_value_heads": 2, "head_dim": 16},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "mistral": {"num_key_value_heads": 2, "sliding_window": None},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "gpt_neox": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": HIDDEN, "dropout": 0.0},
    "phi": {"partial_rotary_factor": 0.5},
    "smollm3": {"num_key_value_heads": 2},
    "granite": {"num_key_value_heads": 2, "residual_multiplier": 0.25, "attention_multiplier": 0.4},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16},
    "olmo2": {"num_key_value_heads": 2},
}
FAMILIES = tuple(_FAMILIES)


def tiny_model(family: str, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """Return a random causal language model: 3 layers, 4 query heads, hidden size 32, 128 tokens, float32, eval.

    Every parameter is random, biases and norm weights included, so that an edit or a fold that forgets one of them
    changes the logits. Llama, Gemma, Qwen and Mistral use grouped queries (2 key-value heads); Gemma and Qwen3 have
    a head dimension (16) that is not hidden size / heads.

    Args:
        family: a transformers model type; those in ``FAMILIES`` are known to work without overrides.
        seed: seed of the parameters; the global random state is left as it was.
        **overrides: further fields of the family's configuration.
    """
    config = AutoConfig.for_model(family, **{**_SIZES, **_FAMILIES.get(family, {}), **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                centre = 1.0 if parameter.dim() == 1 and name.endswith("weight") and "gemma" not in family else 0.0
                parameter.copy_(centre + 0.2 * noise)
    return model.eval()


def tiny_tokens(batch: int = 2, length: int = 7, seed: int = 0) -> torch.Tensor:
    """Return random token ids, int64 [batch, length], without the special ids 0 to 2."""
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))
