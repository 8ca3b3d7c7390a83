"""Natural Questions as a choice between two answers, for evaluation only. See README.md for the source of choices."""

from __future__ import annotations

from lofit.sources.source import HubDataset
from lofit.tasks.nq_open.prepare import render
from lofit.tasks.task import Row, Task, TaskOptions
from lofit.tasks.two_choices import two_choices

SOURCE = HubDataset(
    repo="OamPatel/iti_nq_open_val",
    revision="72f2bf8935efb9a19ef2782222de2f031e9949be",
    config="default",
    split="validation",
)


def right_answers(item: Row, where: str) -> list[str]:
    """Return the annotated answers, in the order of the data."""
    answers: list[str] = render(item, where)["answers"]
    return answers


TASK = Task(
    name="nq_open_mc",
    summary="choose between a right and a wrong answer (Natural Questions, wrong answers of ITI)",
    objective=None,
    folds=(0,),
    headline="acc",
    licence="not stated; the questions are CC-BY-SA-3.0",
    Options=TaskOptions,
    prepare=two_choices("nq_open_mc", SOURCE, right_answers),
)
