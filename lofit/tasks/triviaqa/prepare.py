"""TriviaQA without documents, for evaluation only. See README.md for the source of each choice."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from lofit.errors import TaskError
from lofit.sources.spec import HubDataset
from lofit.tasks.base import Row, Splits, Task, TaskOptions, list_field, text_field
from lofit.tasks.splits import with_ids

if TYPE_CHECKING:
    from lofit.sources.fetcher import Fetcher

REPO = "mandarjoshi/trivia_qa"
REVISION = "0f7faf33a3908546c6fd5b73a660e0f8ff173c2f"
HUB = HubDataset(repo=REPO, revision=REVISION, config="rc.nocontext", split="validation")


def render(item: Row, where: str) -> Row:
    """Turn an item of the hub dataset into a row, without an id."""
    answer = item.get("answer")
    aliases = list_field(answer if isinstance(answer, dict) else {}, "aliases", f"{where}, answer")
    if not all(isinstance(alias, str) and alias.strip() for alias in aliases):
        raise TaskError(f"{where}: 'answer.aliases' must hold non-empty strings, found {aliases!r}; mend the row")
    question = text_field(item, "question", where)
    return {"prompt": f"Question: {question}?\nAnswer:", "answers": aliases}


def prepare(options: TaskOptions, fold: int, seed: int, fetcher: Fetcher) -> Splits:
    """Read the official validation split."""
    rows = [render(item, f"{REPO} row {i}") for i, item in enumerate(fetcher.hub_rows(HUB))]
    return Splits(test=with_ids("triviaqa", rows, Counter()))


TASK = Task(
    name="triviaqa",
    summary="answer a trivia question from memory (TriviaQA, no documents)",
    objective=None,
    folds=(0,),
    headline="exact_match",
    licence="not stated on the dataset card; the authors' repository is Apache-2.0",
    Options=TaskOptions,
    prepare=prepare,
)
