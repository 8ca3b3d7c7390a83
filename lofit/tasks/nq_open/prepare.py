"""Natural Questions without documents, for evaluation only. See README.md for the source of each choice."""

from __future__ import annotations

from lofit.errors import TaskError
from lofit.sources.source import HubDataset
from lofit.tasks.official import single_split
from lofit.tasks.task import Row, Task, TaskOptions, list_field, text_field

SOURCE = HubDataset(
    repo="google-research-datasets/nq_open",
    revision="5dd9790a83002ad084ddeb7c420dc716852c6f28",
    config="nq_open",
    split="validation",
)


def render(item: Row, where: str) -> Row:
    """Turn an item of the hub dataset into a row, without an id."""
    answers = list_field(item, "answer", where)
    if not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise TaskError(f"{where}: field 'answer' must hold non-empty strings, found {answers!r}; fix the row")
    question = text_field(item, "question", where)
    return {"prompt": f"Answer these questions:\n\nQ: {question}?\nA:", "answers": answers}


TASK = Task(
    name="nq_open",
    summary="answer a question from memory (Natural Questions, open)",
    objective=None,
    folds=(0,),
    headline="exact_match",
    licence="CC-BY-SA-3.0",
    Options=TaskOptions,
    prepare=single_split("nq_open", SOURCE, render),
)
