"""A tiny random model with a byte-level tokenizer, saved as a transformers folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.tiny import tiny_model


def byte_tokenizer(*, bos: bool = False) -> PreTrainedTokenizerFast:
    """One token per byte (259 in all); ``bos`` puts ``<s>`` in front of every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=512
    )


def save_checkpoint(folder: Path, family: str = "llama", **overrides: Any) -> Path:
    """Save a tiny model (3 layers, 4 heads) whose vocabulary fits ``byte_tokenizer``."""
    overrides = {"vocab_size": 259, "max_position_embeddings": 512} | overrides
    tiny_model(family, **overrides).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
