"""Continue prompts with the base model and with a fitted method, as evaluation would."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lm_eval.api.instance import Instance
from peft import PeftModel

from lofit.evaluation.lm import LocalizedLM
from lofit.methods import load_method
from lofit.models.adapters import load_fitted
from lofit.models.chat import chat_prompt
from lofit.models.loading import load_model, load_tokenizer, pick_device, pick_dtype
from lofit.nodes.export import fitted_report
from lofit.plan.nodes import FitNode
from lofit.plan.table import RunTable

Continue = Callable[[Sequence[str]], list[tuple[str, str]]]
"""Prompts to their continuations by the base model and by the fitted one."""


def generator(table: RunTable, node: FitNode, n_tokens: int, *, chat: bool) -> Continue:
    """Load a fitted run, and return what continues prompts: greedily, up to the end of the text.

    Args:
        table: the run table of the configuration.
        node: the fit.
        n_tokens: most tokens to generate.
        chat: whether prompts are messages of a user, which the tokenizer's chat template words. They are for what was
            fitted on such prompts, with its system message.

    Raises:
        FitError: there is nothing fitted, or the fit failed.
        SourceError: the fitted files were altered after the fit.
        TaskError: the tokenizer has no chat template.
    """
    fitted_report(table, node)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of models that are not given by name
    device, model_dir = pick_device(table.config.device), table.model_dir(node.model)
    dtype, method = pick_dtype(node.dtype, device), load_method(node.method)
    tokenizer = load_tokenizer(model_dir)
    fitted_on = node.data.chat
    chat, system = chat or bool(fitted_on), (fitted_on or {}).get("system")
    model: Any = load_fitted(model_dir, table.folder(node) / "adapter", device, dtype)
    shared = isinstance(model, PeftModel) and not method.scorer
    base = model if shared else load_model(model_dir, device, dtype)

    def worded(prompt: str) -> str:
        return chat_prompt(tokenizer, prompt, system) if chat else prompt

    def texts(lm: Any, prompts: Sequence[str]) -> list[str]:
        settings = {"until": [], "max_gen_toks": n_tokens, "do_sample": False}
        asked = [Instance("generate_until", {}, (worded(prompt), settings), 0) for prompt in prompts]
        found: list[str] = lm.generate_until(asked, disable_tqdm=True)
        return found

    def continued(prompts: Sequence[str]) -> list[tuple[str, str]]:
        given = {"tokenizer": tokenizer, "batch_size": table.config.eval_batch_size, "backend": "causal"}
        made = partial(method.scorer, node.params) if method.scorer else LocalizedLM
        with model.disable_adapter() if shared else contextlib.nullcontext():
            before = texts(LocalizedLM(pretrained=base, **given), prompts)
        return list(zip(before, texts(made(pretrained=model, **given), prompts), strict=True))

    return continued
