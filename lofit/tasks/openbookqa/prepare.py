"""OpenBookQA splits. See README.md for the source of each choice."""

from __future__ import annotations

from lofit.sources.source import HubDataset
from lofit.tasks.llm_adapters import SharedTextFormatOptions as Options
from lofit.tasks.official import labelled_choices, official_splits
from lofit.tasks.task import Harness, Row, Task, choice_row, text_field

REVISION = "388097ea7776314e93a529163e0fea805b8a6454"


def render(item: Row, where: str, options: Options) -> Row:
    """Turn an item of the hub dataset into a row without an id.

    The prompt is that of lm-eval's ``openbookqa``, or that of LLM-Adapters.
    """
    stem = text_field(item, "question_stem", where)
    texts, gold, published = labelled_choices(item, where)
    kept = {"question": stem, "item": {"question_stem": stem, **published}}
    return (options.choose_row if options.format == "llm_adapters" else choice_row)(stem, texts, gold, **kept)


TASK = Task(
    name="openbookqa",
    summary="choose what completes a statement of elementary science (OpenBookQA)",
    objective="sft",
    folds=(0,),
    headline="acc",
    licence="not stated on the dataset card; the authors' repository is Apache-2.0",
    Options=Options,
    prepare=official_splits(
        "openbookqa",
        HubDataset(repo="allenai/openbookqa", revision=REVISION, config="main", split="train"),
        render,
        test="test",
        group_by="question",
        with_options=True,
    ),
    overlap_key="question",
    harness=Harness(("openbookqa/openbookqa.yaml",), "acc"),
)
