"""MMLU, for evaluation only. See README.md for the source of each choice."""

from __future__ import annotations

from lofit.errors import TaskError
from lofit.sources.source import HubDataset
from lofit.tasks.official import single_split
from lofit.tasks.task import Row, Task, TaskOptions, list_field, text_field

SOURCE = HubDataset(repo="cais/mmlu", revision="c30699e8356da336a370243923dbaf21066bb9fe", config="all", split="test")
LETTERS = ["A", "B", "C", "D"]
ON_PASSAGE = "This question refers to the following information."
"""How a question begins that is asked about a passage, as in the three subjects of history."""


def passage(question: str) -> str:
    """Return the passage that a question is asked about, that is, all but its last line; without one, the question."""
    before = question.rpartition("\n")[0]
    return before if question.startswith(ON_PASSAGE) and before else question


def render(item: Row, where: str) -> Row:
    """Turn an item of the hub dataset into a row, without an id."""
    question, subject = text_field(item, "question", where), text_field(item, "subject", where)
    options, gold = list_field(item, "choices", where), item.get("answer")
    if len(options) != len(LETTERS) or not all(isinstance(option, str) for option in options):
        raise TaskError(f"{where}: field 'choices' must hold four texts, found {options!r}; fix or remove the row")
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(LETTERS):
        raise TaskError(f"{where}: field 'answer' must be 0 to 3, found {gold!r}; fix or remove the row")
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    topic = subject.replace("_", " ")
    description = f"The following are multiple choice questions (with answers) about {topic}.\n\n"
    return {
        "subject": subject,
        "context": passage(question.strip()),
        "prompt": f"{description}{question.strip()}\n{listed}\nAnswer:",
        "choices": LETTERS,
        "gold": gold,
    }


TASK = Task(
    name="mmlu",
    summary="choose the answer to an exam question (MMLU, 57 subjects, zero-shot)",
    objective=None,
    folds=(0,),
    headline="acc",
    licence="MIT",
    Options=TaskOptions,
    cluster_key="context",
    prepare=single_split("mmlu", SOURCE, render),
)
