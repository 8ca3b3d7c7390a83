"""The evaluate node: score one fitted method on the test items of its task."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lofit import tasks
from lofit.errors import FitError, TaskError
from lofit.evaluate.harness import evaluate
from lofit.evaluate.protocol import PROTOCOL
from lofit.files import need, read_json, read_jsonl, write_json, write_text
from lofit.fit.cost import Meter, environment
from lofit.fit.outcome import outcome
from lofit.fit.session import load_model, load_tokenizer, pick_device, pick_dtype
from lofit.methods import load_method
from lofit.runs import FitNode, RunTable

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def run(table: RunTable, node: FitNode) -> None:
    """Write ``results.json`` and ``samples.jsonl``; a fit that failed gives a status instead of scores."""
    folder, method = table.eval_dir(node), load_method(node.method)
    samples: list[dict[str, Any]] = []
    with outcome() as report:
        if method.fit:
            status = read_json(need(table.run_dir(node) / "fit.json", f"fit --run {node.id}"))
            if status["status"] != "ok":
                raise FitError(status["reason"])
        scores, samples = _score(table, node)
        report |= scores
    report = {"n_items": 0, "metrics": {}, "protocol": PROTOCOL, **report, "run": node.identity}
    write_text(
        folder / "samples.jsonl", "".join(json.dumps(s, ensure_ascii=False, default=str) + "\n" for s in samples)
    )
    write_json(folder / "results.json", report)


def _score(table: RunTable, node: FitNode) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    config, task, method = table.config, tasks.load_task(node.data.task), load_method(node.method)
    model_dir, data_dir = table.model_dir(node.model), table.data_dir(node.data)
    device = pick_device(config.device)
    dtype = pick_dtype(node.dtype, device)
    need(model_dir / "config.json", f"model {node.model}")
    items = need(data_dir / "test.jsonl", f"prepare --run {node.data.id}")
    adapter = table.run_dir(node) / "adapter" if method.fit else None
    model = load_fitted(model_dir, adapter, device, dtype)
    meter = Meter(device)
    params = method.Params.model_validate(node.params)
    scores, samples = evaluate(
        model,
        load_tokenizer(model_dir),
        task,
        items,
        batch_size=config.eval_batch_size,
        shots=draw_shots(data_dir / "train.jsonl", method.shots(params), node.seed),
        scorer=partial(method.scorer, params) if method.scorer else None,
    )
    return {**scores, **meter.report(), **environment(device, dtype)}, samples


def draw_shots(train: Path, n: int, seed: int) -> list[dict[str, Any]]:
    """``n`` training rows, drawn by ``seed``.

    Raises:
        TaskError: there are fewer.
    """
    if not n:
        return []
    rows = read_jsonl(need(train, f"prepare --run {'/'.join(train.parts[-4:-1])}"))
    if n > len(rows):
        raise TaskError(f"{train}: {n} examples asked for, {len(rows)} training rows; lower shots or raise n_train")
    return random.Random(seed).sample(rows, n)


def load_fitted(
    model_dir: Path, fitted: Path | None, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel | PeftModel:
    """The base model, the base model with a saved adapter in place, or a fully fine-tuned checkpoint.

    Args:
        model_dir: the base model.
        fitted: folder of the adapter or checkpoint; None for the base model itself.
        device: where to.
        dtype: precision of the weights.
    """
    if fitted is None:
        return load_model(model_dir, device, dtype)
    if not (fitted / "adapter_config.json").is_file():
        return load_model(fitted, device, dtype, source=model_dir)
    from peft import PeftModel

    return PeftModel.from_pretrained(load_model(model_dir, device, dtype), str(fitted)).eval()


def summary_line(folder: Path) -> str:
    """One line for the log: the scores."""
    result = read_json(folder / "results.json")
    if result["status"] != "ok":
        return f"failed: {result['reason']}"
    scores = ", ".join(f"{name} {metric['value']:.3f}" for name, metric in sorted(result["metrics"].items()))
    return f"{scores} on {result['n_items']} items; {result['seconds']:.0f} s"
