"""Scoring backends: lm-eval's model classes, by their names in configurations."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import remove_hook_from_module
from lm_eval.api.model import LM
from lm_eval.api.registry import get_model
from peft import PeftModel

from lofit.errors import ConfigError, EditError
from lofit.evaluation.finite import CheckedLM, TrainingEncoding
from lofit.evaluation.lm import LocalizedLM
from lofit.interventions import export_merged
from lofit.interventions.prompt import virtual_tokens
from lofit.interventions.spans import counts_tokens, needs_spans
from lofit.interventions.tuner.fold import bias_passed_over_by_vllm
from lofit.models.loading import precision_of
from lofit.spec.protocol import PACKED, STOCK, VLLM, Backend


@contextlib.contextmanager
def model_class(backend: Backend) -> Iterator[Callable[..., LM]]:
    """Yield a function that wraps a model, a tokenizer and a batch size for lm-eval; its arguments are ``HFLM``'s.

    Raises:
        ConfigError: the backend is ``vllm``, which is not installed.
    """
    if backend == PACKED:
        yield LocalizedLM
    elif backend == STOCK:
        yield _stock
    else:
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError("backend: vllm is not installed; pip install 'lm-eval[vllm]', or set backend to packed")
        with tempfile.TemporaryDirectory(prefix="lofit-vllm-") as folder:
            yield partial(_exported, Path(folder) / "checkpoint")


def _stock(pretrained: Any, **kwargs: Any) -> LM:
    if virtual_tokens(pretrained):
        raise EditError("lm-eval's hf pads between virtual tokens and prompt; set backend to packed")
    if needs_spans(pretrained) or counts_tokens(pretrained):
        raise EditError("lm-eval's hf cannot tell the prompt from the answer, as this edit must; set backend to packed")
    return CheckedLM(pretrained=pretrained, **kwargs)


def _exported(folder: Path, pretrained: Any, tokenizer: Any, **_: Any) -> LM:
    """Load a plain checkpoint of the model in lm-eval's ``vllm`` on all GPUs; the model itself moves to the CPU."""
    dtype = precision_of(pretrained)
    if isinstance(pretrained, PeftModel):
        export_merged(pretrained, folder, tokenizer)
        if passed_over := bias_passed_over_by_vllm(folder, pretrained.config):
            raise EditError(f"{passed_over}; set backend to packed")
    else:
        pretrained.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    _leave_gpus(pretrained)
    made: Any = type("VLLM", (TrainingEncoding, get_model(VLLM)), {})
    gpus = max(1, torch.cuda.device_count())
    return made(pretrained=str(folder), dtype=dtype, batch_size="auto", tensor_parallel_size=gpus)


def _leave_gpus(model: Any) -> None:
    """Free the GPU memory of a model: the engine claims nine tenths of each GPU, and counts what is in use."""
    for module in model.modules():
        # Hooks of a model that is spread over GPUs. PEFT's wrappers also show those of the modules that they wrap.
        if "_hf_hook" in vars(module):
            remove_hook_from_module(module)
    model.to("cpu")
    gc.collect()
    torch.cuda.empty_cache()
