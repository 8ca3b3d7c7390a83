"""Multiple choice and generation, against lm-eval's stock ``hf`` model on the same items."""

from __future__ import annotations

import math
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM

from lofit.evaluation.harness import evaluate
from lofit.evaluation.lm import LocalizedLM
from lofit.files import write_jsonl
from lofit.tasks import load_task
from perf.common import Claim, in_turn, inputs, model_and_tokenizer, report, rows_of, set_up

# Task, items, aim.
CHOICES = [("truthfulqa", 12, 8.0), ("siqa", 96, 2.0), ("arc_challenge", 48, 2.0)]
GENERATION = [("mquake", 96, 2.0), ("clutrr", 64, 2.0)]
ROUNDS, BATCH = 3, 16


def responses(samples: list[dict[str, Any]]) -> list[Any]:
    """What the model said: log-likelihoods and greedy flags, or strings."""
    return [answer for sample in samples for answer in sample["filtered_resps"]]


def same(ours: list[Any], stock: list[Any]) -> bool:
    """Whether log-likelihoods agree to 1e-4 relative to their size, and all else exactly."""
    if isinstance(ours[0], str):
        return ours == stock
    pairs = zip(ours, stock, strict=True)
    return all(math.isclose(a[0], b[0], rel_tol=1e-4, abs_tol=1e-4) and bool(a[1]) == bool(b[1]) for a, b in pairs)


def claims(work: list[tuple[str, int, float]]) -> list[Claim]:
    """Each task once per round with either model class, on the first test items."""
    table = inputs({name: None for name, _, _ in work})
    model, tokenizer = model_and_tokenizer(table)
    found = []
    for name, n, target in work:
        said: dict[str, list[Any]] = {}
        with tempfile.TemporaryDirectory() as folder:
            items = Path(folder) / "test.jsonl"
            write_jsonl(items, rows_of(table, name, "test")[:n])

            def score(label: str, lm: Any, name: str = name, items: Path = items, said: Any = said) -> None:
                _, samples = evaluate(model, tokenizer, load_task(name), items, batch_size=BATCH, model_class=lm)
                said[label] = responses(samples)

            models = {"ours": LocalizedLM, "baseline": HFLM}
            work_of = {label: partial(score, label, lm) for label, lm in models.items()}
            seconds = in_turn(work_of, ROUNDS, warm_up=0)
        assert same(said["ours"], said["baseline"]), f"{name}: scores differ"
        notes = {"answers": len(said["ours"]), "equal": "all"}
        found.append(Claim(f"{name}, {n} items", "lm-eval's hf", seconds, target, notes))
        print(found[-1].line(), flush=True)
    return found


if __name__ == "__main__":
    set_up()
    kind = sys.argv[1]
    report(kind, claims({"choices": CHOICES, "generation": GENERATION}[kind]))
