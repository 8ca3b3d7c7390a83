"""SVAMP splits. See README.md for the source of each choice."""

from __future__ import annotations

from lofit.errors import TaskError
from lofit.sources.source import HubDataset
from lofit.tasks.numbers import parse, plain, wrong_numbers
from lofit.tasks.official import official_splits
from lofit.tasks.task import Row, Task, TaskOptions, contrast, text_field

REVISION = "5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef"


def render(item: Row, where: str) -> Row:
    """Turn an item of the hub dataset into a row, without an id."""
    body, question = text_field(item, "Body", where).strip(), text_field(item, "Question", where).strip()
    answer = parse(str(item.get("Answer")))
    if answer is None:
        raise TaskError(f"{where}: field 'Answer' must be a number, found {item.get('Answer')!r}; fix the row")
    text = body if body[-1] in ".?!" else f"{body}."
    prompt = f"Question: {text} {question}\nAnswer:"
    return {
        "prompt": prompt,
        "target": f" {plain(answer)}",
        "contrast": contrast(prompt, [f" {plain(answer)}"], [f" {n}" for n in wrong_numbers(answer, [body, question])]),
        "answers": [plain(answer)],
    }


TASK = Task(
    name="svamp",
    summary="solve a word problem with one operation (SVAMP)",
    objective="sft",
    folds=(0,),
    headline="exact_match",
    licence="MIT",
    Options=TaskOptions,
    prepare=official_splits(
        "svamp",
        HubDataset(repo="ChilleD/SVAMP", revision=REVISION, config="default", split="train"),
        render,
        test="test",
        group_by="prompt",
    ),
)
