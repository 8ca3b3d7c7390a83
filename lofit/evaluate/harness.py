"""lm-evaluation-harness on one of our task folders."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit.files import read_jsonl
from lofit.tasks import Task, lm_eval_config

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def evaluate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    items: Path,
    *,
    batch_size: int,
    seed: int = 0,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score ``model`` on the JSON lines in ``items`` with the task's own lm-eval definition.

    ``model`` may be a PEFT model: it is scored as it is, adapters in place.

    Returns:
        ``{"n_items", "metrics": {name: {"value", "stderr"}}, "task_version"}`` and one sample per item as
        lm-eval gives them (document, arguments, responses, per-item metrics).
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    name = f"lofit_{task.name}"
    with tempfile.TemporaryDirectory(prefix="lofit-eval-") as cache:
        output = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal"),
            tasks=[lm_eval_config(task.name, items, cache_dir=cache)],
            task_manager=TaskManager(include_defaults=False),
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
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
