"""lm-evaluation-harness on one of our task folders."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit.evaluate.protocol import OPEN, PAPER, Protocol
from lofit.files import read_jsonl, write_jsonl
from lofit.tasks import Task, lm_eval_config

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def evaluate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    items: Path,
    *,
    batch_size: int,
    protocol: Protocol = PAPER,
    shots: Sequence[dict[str, Any]] = (),
    model_class: Callable[..., LM] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score ``model`` on the JSON lines in ``items``.

    Args:
        model: scored as it is; a PEFT model with its adapters in place.
        tokenizer: of the model.
        task: what is scored.
        items: JSON lines of evaluation rows; a ``train.jsonl`` beside them serves definitions that take examples.
        batch_size: prompts in one forward pass.
        protocol: ``paper`` and ``open`` for the task folder's own lm-eval definitions, ``harness`` for lm-eval's.
        shots: training rows to put in front of every prompt, answered, in this order.
        model_class: makes lm-eval's model, of the arguments of ``HFLM``; None for ours.

    Returns:
        ``{"n_items", "n_truncated", "metrics": {name: {"value", "stderr"}}, "task_version"}``, where ``n_truncated``
        counts the items whose prompt was longer than the model reads and was cut on the left; and one sample per item
        as lm-eval gives them (document, arguments, responses, per-item metrics).
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    from lofit.evaluate.lm import LocalizedLM
    from lofit.evaluate.window import cut_items

    make_lm = model_class or LocalizedLM
    with tempfile.TemporaryDirectory(prefix="lofit-eval-") as cache:
        if protocol == PAPER:
            asked = _after_examples(task, items, shots, Path(cache) / "items.jsonl") if shots else items
            definitions = [lm_eval_config(task, asked, cache_dir=cache)]
        elif protocol == OPEN:
            definitions = [lm_eval_config(task, items, task.open_definition, cache_dir=cache)]
        else:
            definitions = stock_configs(task, items, Path(cache))
        lm: Any = make_lm(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")
        output = lm_eval.simple_evaluate(
            model=lm,
            tasks=definitions,
            task_manager=TaskManager(include_defaults=False),
            log_samples=True,
            bootstrap_iters=1000,  # means get their analytic standard error; 0 would drop it
            verbosity="WARNING",
        )
    n_items = len(read_jsonl(items))
    samples: list[dict[str, Any]] = []
    metrics: dict[str, dict[str, float | None]] = {}
    for definition in definitions:
        name = definition["task"]
        scored = sorted(output["samples"][name], key=lambda sample: sample["doc_id"])
        if len({sample["doc_id"] for sample in scored}) != n_items:
            raise RuntimeError(f"{items}: lm-eval scored {len(scored)} items for {name}, not all {n_items}")
        prefix = f"{name}." if len(definitions) > 1 else ""
        samples += [{"task": name, **sample} for sample in scored]
        metrics |= {prefix + metric: value for metric, value in _metrics(output["results"][name]).items()}
    versions = {definition["task"]: output["versions"][definition["task"]] for definition in definitions}
    scores = {"n_items": n_items, "n_truncated": cut_items(lm, samples), "metrics": metrics, "task_version": versions}
    return scores, samples


def stock_configs(task: Task, items: Path, cache: Path) -> list[dict[str, Any]]:
    """lm-eval's own definitions of a task, reading the original fields of our rows instead of the hub's dataset.

    Args:
        task: one that lm-eval defines.
        items: JSON lines of evaluation rows.
        cache: folder for what is written for ``datasets`` to read.
    """
    import lm_eval
    from lm_eval.tasks.manager import load_yaml

    assert task.harness, f"lm-eval has no definition of {task.name}"
    files = {"test": items, "train": items.with_name("train.jsonl")}
    for split, file in files.items():
        write_jsonl(cache / f"{split}.jsonl", [row["item"] for row in read_jsonl(file)] if file.is_file() else [])
    configs = []
    for definition in task.harness.definitions:
        stock = load_yaml(Path(lm_eval.__file__).parent / "tasks" / definition)
        used = ["test", *(["train"] if stock.get("num_fewshot") else [])]
        configs.append(
            {key: value for key, value in stock.items() if not key.endswith("_split") and key != "dataset_name"}
            | {"dataset_path": "json", "test_split": "test"}
            | ({"fewshot_split": "train"} if "train" in used else {})
            | {
                "dataset_kwargs": {
                    "data_files": {split: str(cache / f"{split}.jsonl") for split in used},
                    "cache_dir": str(cache),
                }
            }
        )
    return configs


def _after_examples(task: Task, items: Path, shots: Sequence[dict[str, Any]], target: Path) -> Path:
    """Write the items with answered training rows in front of every prompt, in this order, and return the file."""
    prompt, answer = ("prompt", "target") if task.objective == "sft" else ("train_prompt", "chosen")
    examples = "".join(f"{shot[prompt]}{shot[answer]}\n\n" for shot in shots)
    rows = []
    for row in read_jsonl(items):
        contexts = {"contexts": [examples + text for text in row["contexts"]]} if "contexts" in row else {}
        rows.append(row | {"prompt": examples + row["prompt"]} | contexts)
    write_jsonl(target, rows)
    return target


def _metrics(results: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """lm-eval's ``metric,filter`` keys as ``metric`` or ``metric.filter`` to value and standard error."""
    metrics: dict[str, dict[str, float | None]] = {}
    for key, value in results.items():
        metric, _, kind = key.partition(",")
        if "," not in key or metric.endswith("_stderr"):
            continue
        stderr = results.get(key.replace(metric, f"{metric}_stderr", 1))
        metrics[metric if kind == "none" else f"{metric}.{kind}"] = {
            "value": float(value),
            "stderr": stderr if isinstance(stderr, float) else None,
        }
    return metrics
