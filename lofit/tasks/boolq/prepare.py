"""BoolQ splits. See README.md for the source of each choice."""

from __future__ import annotations

from lofit.errors import TaskError
from lofit.sources.source import HubDataset
from lofit.tasks.llm_adapters import SharedTextFormatOptions as Options
from lofit.tasks.official import official_splits
from lofit.tasks.task import Harness, Row, Task, choice_row, text_field

CHOICES = ["no", "yes"]

REVISION = "35b264d03638db9f4ce671b711558bf7ff0f80d5"


def render(item: Row, where: str, options: Options) -> Row:
    """Turn an item of the hub dataset into a row without an id.

    The prompt is that of lm-eval's ``boolq``, or that of LLM-Adapters, which does not show the passage.
    """
    question, passage = text_field(item, "question", where), text_field(item, "passage", where)
    answer = item.get("answer")
    if not isinstance(answer, bool):
        raise TaskError(f"{where}: field 'answer' must be true or false, found {answer!r}; fix or remove the row")
    kept = {"passage": passage, "item": {"question": question, "passage": passage, "label": int(answer)}}
    if options.format == "llm_adapters":
        asked = f"Please answer the following question with true or false, question: {question}?"
        return options.option_row(f"{asked}\n\nAnswer format: true/false", ["true", "false"], int(not answer), **kept)
    return choice_row(f"{passage}\nQuestion: {question}?\nAnswer:", CHOICES, int(answer), **kept)


TASK = Task(
    name="boolq",
    summary="answer a question about a passage with yes or no (BoolQ)",
    objective="sft",
    folds=(0,),
    headline="acc",
    licence="CC-BY-SA-3.0",
    Options=Options,
    prepare=official_splits(
        "boolq",
        HubDataset(repo="google/boolq", revision=REVISION, config="default", split="train"),
        render,
        test="validation",
        group_by="passage",
        with_options=True,
    ),
    overlap_key="passage",
    harness=Harness(("super_glue/boolq/default.yaml",), "acc"),
)
