"""AI2 Reasoning Challenge splits. See README.md for the source of each choice."""

from __future__ import annotations

from lofit.sources.source import HubDataset
from lofit.tasks.llm_adapters import SharedTextFormatOptions as Options
from lofit.tasks.official import labelled_choices, official_splits
from lofit.tasks.task import Harness, Row, Task, choice_row, text_field

REVISION = "210d026faf9955653af8916fad021475a3f00453"


def render(item: Row, where: str, options: Options) -> Row:
    """Turn an item of the hub dataset into a row without an id.

    The prompt is that of lm-eval's ``arc_challenge``, or that of LLM-Adapters.
    """
    question = text_field(item, "question", where)
    texts, gold, published = labelled_choices(item, where)
    kept = {"question": question, "item": {"question": question, **published}}
    if options.format == "llm_adapters":
        return options.choose_row(question, texts, gold, **kept)
    return choice_row(f"Question: {question}\nAnswer:", texts, gold, **kept)


TASK = Task(
    name="arc_challenge",
    summary="choose the answer to a hard question of a science exam (ARC-Challenge)",
    objective="sft",
    folds=(0,),
    headline="acc",
    licence="CC-BY-SA-4.0",
    Options=Options,
    prepare=official_splits(
        "arc_challenge",
        HubDataset(repo="allenai/ai2_arc", revision=REVISION, config="ARC-Challenge", split="train"),
        render,
        test="test",
        group_by="question",
        with_options=True,
    ),
    overlap_key="question",
    harness=Harness(("arc/arc_challenge.yaml",), "acc"),
)
