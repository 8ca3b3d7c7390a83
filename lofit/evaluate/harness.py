"""lm-evaluation-harness on one of our task folders."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit.files import read_jsonl
from lofit.tasks import Task, lm_eval_config

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def evaluate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    items: Path,
    *,
    batch_size: int,
    shots: Sequence[dict[str, Any]] = (),
    scorer: Callable[..., HFLM] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score ``model`` on the JSON lines in ``items`` with the task's own lm-eval definition.

    Args:
        model: scored as it is; a PEFT model with its adapters in place.
        tokenizer: of the model.
        task: names the lm-eval definition.
        items: JSON lines of evaluation rows.
        batch_size: prompts in one forward pass.
        shots: training rows to put in front of every prompt, answered, in this order.
        scorer: makes the harness's model, for methods that score in a way of their own.

    Returns:
        ``{"n_items", "metrics": {name: {"value", "stderr"}}, "task_version"}`` and one sample per item as
        lm-eval gives them (document, arguments, responses, per-item metrics).
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    from lofit.evaluate.lm import LocalizedLM

    make_lm = scorer or LocalizedLM
    name = f"lofit_{task.name}"
    with tempfile.TemporaryDirectory(prefix="lofit-eval-") as cache:
        output = lm_eval.simple_evaluate(
            model=make_lm(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal"),
            tasks=[lm_eval_config(task.name, items, cache_dir=cache) | _few_shot(task, shots)],
            task_manager=TaskManager(include_defaults=False),
            log_samples=True,
            bootstrap_iters=1000,  # means get their analytic standard error; 0 would drop it
            verbosity="WARNING",
        )
    samples = sorted(output["samples"][name], key=lambda sample: sample["doc_id"])
    if len(samples) != len(read_jsonl(items)):
        raise RuntimeError(f"{items}: lm-eval scored {len(samples)} items, not all of them")
    return {
        "n_items": len(samples),
        "metrics": _metrics(output["results"][name]),
        "task_version": output["versions"][name],
    }, samples


def _few_shot(task: Task, shots: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The part of an lm-eval definition that puts ``shots`` in front, as the training rows are worded."""
    if not shots:
        return {}
    prompt, answer = ("prompt", "target") if task.objective == "sft" else ("train_prompt", "chosen")
    return {
        "num_fewshot": len(shots),
        "fewshot_config": {
            "sampler": "first_n",
            "samples": [{"prompt": shot[prompt], "answer": shot[answer]} for shot in shots],
            "doc_to_text": "{{prompt}}",
            "doc_to_choice": "",
            "doc_to_target": "{{answer}}",
            "target_delimiter": "",
            "fewshot_delimiter": "\n\n",
        },
    }


def _metrics(results: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """lm-eval's ``metric,filter`` keys as ``metric -> value and standard error``."""
    metrics: dict[str, dict[str, float | None]] = {}
    for key, value in results.items():
        metric, _, _ = key.partition(",")
        if "," not in key or metric.endswith("_stderr"):
            continue
        stderr = results.get(key.replace(metric, f"{metric}_stderr", 1))
        metrics[metric] = {"value": float(value), "stderr": stderr if isinstance(stderr, float) else None}
    return metrics
