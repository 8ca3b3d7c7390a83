"""OpenBookQA splits. See README.md for the source of each choice."""

from __future__ import annotations

from lofit.errors import TaskError
from lofit.sources.spec import HubDataset
from lofit.tasks.base import Harness, Row, Task, choice_row, list_field, text_field
from lofit.tasks.official import SharedTextOptions, official_splits

REVISION = "388097ea7776314e93a529163e0fea805b8a6454"


def render(item: Row, where: str) -> Row:
    """Turn an item of the hub dataset into a row, without an id. The prompt is that of lm-eval's ``openbookqa``."""
    stem, choices = text_field(item, "question_stem", where), item.get("choices")
    choices = choices if isinstance(choices, dict) else {}
    texts, labels = (list_field(choices, name, f"{where}, choices") for name in ("text", "label"))
    key = text_field(item, "answerKey", where).strip()
    if len(texts) != len(labels) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise TaskError(f"{where}: field 'choices' must hold as many texts as labels, found {choices!r}; mend the row")
    if key not in labels:
        raise TaskError(f"{where}: field 'answerKey' must be one of {labels}, found {key!r}; mend or remove the row")
    published = {"question_stem": stem, "choices": {"text": texts, "label": labels}, "answerKey": key}
    return choice_row(stem, texts, labels.index(key), item=published)


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
        together="prompt",
    ),
    harness=Harness(("openbookqa/openbookqa.yaml",), "acc"),
)
