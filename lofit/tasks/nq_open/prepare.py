"""Natural Questions without documents, for evaluation only. See README.md for the source of each choice."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from lofit.errors import TaskError
from lofit.sources.spec import HubDataset
from lofit.tasks.base import Row, Splits, Task, TaskOptions, list_field, text_field
from lofit.tasks.splits import with_ids

if TYPE_CHECKING:
    from lofit.sources.fetcher import Fetcher

REPO = "google-research-datasets/nq_open"
REVISION = "5dd9790a83002ad084ddeb7c420dc716852c6f28"
HUB = HubDataset(repo=REPO, revision=REVISION, config="nq_open", split="validation")


def render(item: Row, where: str) -> Row:
    """Turn an item of the hub dataset into a row, without an id."""
    answers = list_field(item, "answer", where)
    if not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise TaskError(f"{where}: field 'answer' must hold non-empty strings, found {answers!r}; mend the row")
    question = text_field(item, "question", where)
    return {"prompt": f"Answer these questions:\n\nQ: {question}?\nA:", "answers": answers}


def prepare(options: TaskOptions, fold: int, seed: int, fetcher: Fetcher) -> Splits:
    """Read the official validation split."""
    rows = [render(item, f"{REPO} row {i}") for i, item in enumerate(fetcher.hub_rows(HUB))]
    return Splits(test=with_ids("nq_open", rows, Counter()))


TASK = Task(
    name="nq_open",
    summary="answer a question from memory (Natural Questions, open)",
    objective=None,
    folds=(0,),
    headline="exact_match",
    licence="CC-BY-SA-3.0",
    Options=TaskOptions,
    prepare=prepare,
)
