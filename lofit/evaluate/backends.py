"""What computes a model's scores: lm-eval's model classes, by their names in configurations."""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import get_model
from peft import PeftModel

from lofit.errors import ConfigError, EditError
from lofit.evaluate.finite import FiniteLM
from lofit.evaluate.lm import LocalizedLM
from lofit.evaluate.protocol import OURS, STOCK, VLLM, Backend
from lofit.fit.session import precision_of
from lofit.interventions import export_merged
from lofit.interventions.spans import counts_tokens, needs_spans


@contextlib.contextmanager
def model_class(backend: Backend) -> Iterator[Callable[..., LM]]:
    """What makes lm-eval's model of a model, a tokenizer and a batch size, given as those of ``HFLM``.

    Raises:
        ConfigError: vllm is asked for and not installed.
    """
    if backend == OURS:
        yield LocalizedLM
    elif backend == STOCK:
        yield _stock
    else:
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError("backend: vllm is not installed; pip install 'lm-eval[vllm]', or set backend to lofit")
        with tempfile.TemporaryDirectory(prefix="lofit-vllm-") as folder:
            yield partial(_exported, Path(folder) / "checkpoint")


def _stock(pretrained: Any, **kwargs: Any) -> LM:
    if needs_spans(pretrained) or counts_tokens(pretrained):
        raise EditError("lm-eval's hf cannot tell the prompt from the answer, as this edit must; set backend to lofit")
    return FiniteLM(pretrained=pretrained, **kwargs)


def _exported(folder: Path, pretrained: Any, tokenizer: Any, **_: Any) -> LM:
    """A plain checkpoint of the model, in lm-eval's ``vllm``; the model itself leaves the GPU."""
    dtype = precision_of(pretrained)
    if isinstance(pretrained, PeftModel):
        export_merged(pretrained, folder, tokenizer)
    else:
        pretrained.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    pretrained.to("cpu")
    return get_model(VLLM)(pretrained=str(folder), dtype=dtype, batch_size="auto")
