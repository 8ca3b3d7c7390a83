"""The evaluate node: score one fitted method on the test items of its task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit import tasks
from lofit.evaluate.harness import evaluate
from lofit.evaluate.protocol import PROTOCOL
from lofit.files import read_json, write_json, write_text
from lofit.fit.cost import Meter, environment
from lofit.fit.session import load_model, load_tokenizer, pick_device, pick_dtype
from lofit.methods import load_method
from lofit.runs import FitNode, RunTable

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def run(table: RunTable, node: FitNode) -> None:
    """Write ``results.json`` and ``samples.jsonl``; a fit that failed gives a status instead of scores."""
    fitted, folder = table.run_dir(node), table.eval_dir(node)
    has_adapter = load_method(node.method).adapter is not None
    status = read_json(fitted / "fit.json") if has_adapter else {"status": "ok", "reason": None}
    result: dict[str, Any] = {"status": status["status"], "reason": status["reason"], "n_items": 0, "metrics": {}}
    result["run"] = node.identity
    samples: list[dict[str, Any]] = []
    if status["status"] == "ok":
        config, task = table.config, tasks.load_task(node.data.task)
        device = pick_device(config.device)
        base = load_model(table.model_dir(node.model), device, pick_dtype(node.dtype, device))
        model = load_adapter(base, fitted / "adapter") if has_adapter else base
        meter = Meter(device)
        tokenizer, items = load_tokenizer(table.model_dir(node.model)), table.data_dir(node.data) / "test.jsonl"
        scores, samples = evaluate(model, tokenizer, task, items, batch_size=config.eval_batch_size)
        result |= {"protocol": PROTOCOL, **scores, **meter.report(), **environment(device)}
    write_text(
        folder / "samples.jsonl", "".join(json.dumps(s, ensure_ascii=False, default=str) + "\n" for s in samples)
    )
    write_json(folder / "results.json", result)


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The model with a saved adapter in place, in evaluation mode."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder)).eval()


def summary_line(folder: Path) -> str:
    """One line for the log: the scores."""
    result = read_json(folder / "results.json")
    if result["status"] != "ok":
        return f"failed: {result['reason']}"
    scores = ", ".join(f"{name} {metric['value']:.3f}" for name, metric in sorted(result["metrics"].items()))
    return f"{scores} on {result['n_items']} items; {result['seconds']:.0f} s"
