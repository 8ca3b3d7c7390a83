"""OpenBookQA splits. See README.md for the source of each choice."""

from __future__ import annotations

from lofit.sources.source import HubDataset
from lofit.tasks.official import SharedTextOptions, labelled_choices, official_splits
from lofit.tasks.task import Harness, Row, Task, choice_row, text_field

REVISION = "388097ea7776314e93a529163e0fea805b8a6454"


def render(item: Row, where: str) -> Row:
    """Turn an item of the hub dataset into a row without an id. The prompt is that of lm-eval's ``openbookqa``."""
    stem = text_field(item, "question_stem", where)
    texts, gold, published = labelled_choices(item, where)
    return choice_row(stem, texts, gold, item={"question_stem": stem, **published})


TASK = Task(
    name="openbookqa",
    summary="choose what completes a statement of elementary science (OpenBookQA)",
    objective="sft",
    folds=(0,),
    headline="acc",
    licence="not stated on the dataset card; the authors' repository is Apache-2.0",
    Options=SharedTextOptions,
    prepare=official_splits(
        "openbookqa",
        HubDataset(repo="allenai/openbookqa", revision=REVISION, config="main", split="train"),
        render,
        test="test",
        group_by="prompt",
    ),
    harness=Harness(("openbookqa/openbookqa.yaml",), "acc"),
)
