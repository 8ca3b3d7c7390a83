"""The evaluate node: score one fitted method on the test items of one task."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from lofit.errors import FitError, TaskError
from lofit.evaluation.backends import model_class
from lofit.evaluation.harness import evaluate
from lofit.evaluation.judge import judge, rates
from lofit.evaluation.text import score_text
from lofit.files import read_json, read_jsonl, require, write_json, write_text
from lofit.methods import load_method
from lofit.models.adapters import load_fitted, verify
from lofit.models.chat import in_chat
from lofit.models.loading import Precision, load_model, load_tokenizer, pick_device, pick_dtype
from lofit.models.meter import Meter, environment
from lofit.nodes.limits import limited
from lofit.nodes.status import record_failure
from lofit.plan.kinds import kind_of
from lofit.plan.nodes import EvalNode
from lofit.plan.table import RunTable
from lofit.spec.protocol import COUNTED, OPEN, PACKED, scoring
from lofit.tasks.truthfulqa.utils import own_answer

PROMPTS = 16
"""Prompts of a task, for which a method was not fitted, on which it is compared with the base model."""


def run(table: RunTable, node: EvalNode, killed: str | None = None) -> None:
    """Write ``results.json`` and ``samples.jsonl``.

    If the fit or the evaluation failed, ``results.json`` holds the reason and there are no scores.

    Args:
        table: the run table of the configuration.
        node: the node to run.
        killed: reason of the failure, for a node that was killed; nothing is scored.
    """
    folder, fit = table.folder(node), node.fit
    samples: list[dict[str, Any]] = []
    with record_failure() as report, limited(table.config.limits, table.config.device):
        if killed:
            raise FitError(killed)
        if load_method(fit.method).fit:
            status = kind_of(fit).read_report(table, fit)
            if status["status"] != "ok":
                raise FitError(status["reason"])
            verify(table.folder(fit) / "adapter", status.get("sha256"))
        scores, samples = _score(table, node)
        report |= scores
    report = {"n_items": 0, "metrics": {}, **report, "run": node.identity}
    write_text(
        folder / "samples.jsonl", "".join(json.dumps(s, ensure_ascii=False, default=str) + "\n" for s in samples)
    )
    write_json(folder / "results.json", report)


def _score(table: RunTable, node: EvalNode) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    config, fit, method = table.config, node.fit, load_method(node.fit.method)
    model_dir = table.model_dir(fit.model)
    device = pick_device(config.device)
    dtype = pick_dtype(fit.dtype, device)
    require(model_dir / "config.json", f"node fetch {model_dir.name}")
    items = require(table.folder(node.data) / "test.jsonl", f"node prepare {node.data.id}")
    adapter = table.folder(fit) / "adapter" if method.fit else None
    model = load_fitted(model_dir, adapter, device, dtype)
    task, meter, ran = config.task(node.data.task), Meter(device), environment(model)
    tokenizer = load_tokenizer(model_dir)
    moved: dict[str, Any] = {}
    compared: list[dict[str, Any]] = []
    if not node.own:
        base = load_model(model_dir, device, dtype) if adapter and not isinstance(model, PeftModel) else None
        if task.plain_text:
            scores, samples = score_text(model, base, tokenizer, read_jsonl(items), task.name)
            return {**scores, **meter.report(), **ran, "backend": PACKED}, samples
        if adapter:
            rows = read_jsonl(items)
            numbers = sorted({i * len(rows) // PROMPTS for i in range(PROMPTS)})
            asked = [rows[number] for number in numbers]
            asked = in_chat(asked, tokenizer, **node.data.chat) if node.data.chat else asked
            prompts = [
                {"id": row["id"], "text": row["prompt"], "number": number}
                for row, number in zip(asked, numbers, strict=True)
            ]
            moved, compared = score_text(model, base, tokenizer, prompts, task.name, ends=True)
        del base  # make room for the scorer
    n_shots = method.shots(fit.params) if method.shots else 0
    with model_class(node.backend) as made:
        scores, samples = evaluate(
            model,
            tokenizer,
            task,
            items,
            batch_size=config.eval_batch_size,
            protocol=node.protocol,
            shots=draw_shots(table.folder(fit.data) / "train.jsonl", n_shots, fit.seed),
            model_class=partial(method.scorer, fit.params) if method.scorer else made,
            chat=node.data.chat,
        )
    if scoring(node.protocol) == OPEN and config.judges:
        del model  # make room for the judges
        samples = _judged(table, samples, device, dtype)
        scores["metrics"] |= rates(samples)
    if moved:
        scores["metrics"]["kl"] = moved["metrics"]["kl"] | {"n_items": moved["n_items"]}
    return {**scores, **meter.report(), **ran, "backend": node.backend}, samples + compared


def _judged(
    table: RunTable, samples: list[dict[str, Any]], device: torch.device, dtype: Precision
) -> list[dict[str, Any]]:
    """Return the samples with the judges' verdicts on each answer added."""
    judges = table.config.judges
    assert judges
    verdicts = judge(
        {"truth": table.model_dir(judges.truth), "info": table.model_dir(judges.info)},
        [sample["doc"]["question"] for sample in samples],
        [own_answer(sample["resps"][0][0]) for sample in samples],
        device=device,
        dtype=dtype,
        batch_size=table.config.eval_batch_size,
    )
    return [sample | verdict for sample, verdict in zip(samples, verdicts, strict=True)]


def draw_shots(train: Path, n: int, seed: int) -> list[dict[str, Any]]:
    """Draw ``n`` training rows with ``seed``, as examples in few-shot prompts.

    Raises:
        TaskError: there are fewer than ``n`` rows.
    """
    if not n:
        return []
    rows = read_jsonl(require(train, f"node prepare {'/'.join(train.parts[-4:-1])}"))
    if n > len(rows):
        raise TaskError(f"{train}: {n} examples asked for, {len(rows)} training rows; lower shots or raise n_train")
    return random.Random(seed).sample(rows, n)


def summary_line(folder: Path) -> str:
    """Return one line for the log: scores, number of items and seconds."""
    result = read_json(folder / "results.json")
    if result["status"] != "ok":
        return f"failed: {result['reason']}"
    scores = ", ".join(f"{name} {metric['value']:.3f}" for name, metric in sorted(result["metrics"].items()))
    counted = "; ".join(f"{result[name]} {said}" for name, said in COUNTED.items() if result.get(name))
    remarks = f" ({counted})" if counted else ""
    return f"{scores} on {result['n_items']} items{remarks}; {result['seconds']:.0f} s"
