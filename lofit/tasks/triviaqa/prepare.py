"""TriviaQA without documents, for evaluation only. See README.md for the source of each choice."""

from __future__ import annotations

from lofit.errors import TaskError
from lofit.sources.source import HubDataset
from lofit.tasks.official import single_split
from lofit.tasks.task import Row, Task, TaskOptions, list_field, text_field

SOURCE = HubDataset(
    repo="mandarjoshi/trivia_qa",
    revision="0f7faf33a3908546c6fd5b73a660e0f8ff173c2f",
    config="rc.nocontext",
    split="validation",
)


def render(item: Row, where: str) -> Row:
    """Turn an item of the hub dataset into a row, without an id."""
    answer = item.get("answer")
    aliases = list_field(answer if isinstance(answer, dict) else {}, "aliases", f"{where}, answer")
    if not all(isinstance(alias, str) and alias.strip() for alias in aliases):
        raise TaskError(f"{where}: 'answer.aliases' must hold non-empty strings, found {aliases!r}; fix the row")
    question = text_field(item, "question", where)
    return {"prompt": f"Question: {question}?\nAnswer:", "answers": aliases}


TASK = Task(
    name="triviaqa",
    summary="answer a trivia question from memory (TriviaQA, no documents)",
    objective=None,
    folds=(0,),
    headline="exact_match",
    licence="not stated on the dataset card; the authors' repository is Apache-2.0",
    Options=TaskOptions,
    prepare=single_split("triviaqa", SOURCE, render),
)
