"""TriviaQA as a choice between two answers, for evaluation only. See README.md for the source of choices."""

from __future__ import annotations

from lofit.sources.source import HubDataset
from lofit.tasks.task import Row, Task, TaskOptions, text_field
from lofit.tasks.triviaqa.prepare import render
from lofit.tasks.two_choices import two_choices

SOURCE = HubDataset(
    repo="OamPatel/iti_trivia_qa_val",
    revision="9389d77c794e839fa68cf1ab5b3f56865e14044c",
    config="default",
    split="validation",
)


def right_answers(item: Row, where: str) -> list[str]:
    """Return the answer that the question was written with, then its aliases."""
    aliases = render(item, where)["answers"]
    return [text_field(item["answer"], "value", f"{where}, answer"), *aliases]


TASK = Task(
    name="triviaqa_mc",
    summary="choose between a right and a wrong answer (TriviaQA, wrong answers of ITI)",
    objective=None,
    folds=(0,),
    headline="acc",
    licence="not stated; the card of TriviaQA states none either",
    Options=TaskOptions,
    prepare=two_choices("triviaqa_mc", SOURCE, right_answers),
)
