"""AQuA-RAT splits. See README.md for the source of each choice."""

from __future__ import annotations

from lofit.errors import TaskError
from lofit.sources.source import HubDataset
from lofit.tasks.official import official_splits
from lofit.tasks.task import Row, Task, TaskOptions, choice_row, list_field, text_field

LETTERS = ["A", "B", "C", "D", "E"]

REVISION = "33301c6a050c96af81f63cad5562cb5363e88971"


def render(item: Row, where: str) -> Row:
    """Turn an item of the hub dataset into a row without an id. The prompt lists the options; choices are letters."""
    question, options = text_field(item, "question", where), list_field(item, "options", where)
    marks = [f"{letter})" for letter in LETTERS]
    if not all(isinstance(o, str) for o in options) or [option[:2] for option in options] != marks:
        raise TaskError(f"{where}: field 'options' must be five texts 'A)' to 'E)', found {options!r}; fix the row")
    key = item.get("correct")
    if key not in LETTERS:
        raise TaskError(f"{where}: field 'correct' must be A to E, found {key!r}; fix or remove the row")
    listed = "\n".join(f"{letter}. {option[2:].strip()}" for letter, option in zip(LETTERS, options, strict=True))
    return choice_row(f"Question: {question}\n{listed}\nAnswer:", LETTERS, LETTERS.index(key), question=question)


TASK = Task(
    name="aqua",
    summary="choose the answer to an algebraic word problem (AQuA-RAT)",
    objective="sft",
    folds=(0,),
    headline="acc",
    licence="Apache-2.0",
    Options=TaskOptions,
    prepare=official_splits(
        "aqua",
        HubDataset(repo="deepmind/aqua_rat", revision=REVISION, config="raw", split="train"),
        render,
        test="test",
        group_by="question",
    ),
    overlap_key="question",
)
