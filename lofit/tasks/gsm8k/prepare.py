"""GSM8K splits. See README.md for the source of each choice."""

from __future__ import annotations

import re

from lofit.errors import TaskError
from lofit.sources.source import HubDataset
from lofit.tasks.numbers import parse, plain, wrong_numbers
from lofit.tasks.official import official_splits
from lofit.tasks.task import Harness, Row, Task, TaskOptions, contrast, text_field

_CALCULATION = re.compile(r"<<[^<>]*>>")

REVISION = "e53f048856ff4f594e959d75785d2c2d37b678ee"


def render(item: Row, where: str) -> Row:
    """Turn an item of the hub dataset into a row without an id. The prompt is that of lm-eval's ``gsm8k``."""
    question, solution = text_field(item, "question", where), text_field(item, "answer", where)
    steps, mark, final = solution.rpartition("#### ")
    answer = parse(final)
    if not mark or answer is None:
        raise TaskError(f"{where}: field 'answer' must end with '#### ' and a number, found {solution[-40:]!r}")
    prompt = f"Question: {question}\nAnswer:"
    wrong = wrong_numbers(answer, [_CALCULATION.sub("", steps), question])
    return {
        "prompt": prompt,
        "target": " " + _CALCULATION.sub("", solution),
        "contrast": contrast(prompt, [f" {plain(answer)}"], [f" {number}" for number in wrong]),
        "answers": [plain(answer)],
        "item": {"question": question, "answer": solution},
    }


TASK = Task(
    name="gsm8k",
    summary="solve a word problem in steps (GSM8K)",
    objective="sft",
    folds=(0,),
    headline="exact_match",
    licence="MIT",
    Options=TaskOptions,
    prepare=official_splits(
        "gsm8k",
        HubDataset(repo="openai/gsm8k", revision=REVISION, config="main", split="train"),
        render,
        test="test",
        group_by="prompt",
    ),
    harness=Harness(("gsm8k/gsm8k.yaml",), "exact_match.flexible-extract"),
)
