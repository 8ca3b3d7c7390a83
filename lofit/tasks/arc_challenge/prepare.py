"""AI2 Reasoning Challenge splits. See README.md for the source of each choice."""

from __future__ import annotations

from lofit.errors import TaskError
from lofit.sources.spec import HubDataset
from lofit.tasks.base import Harness, Row, Task, choice_row, list_field, text_field
from lofit.tasks.official import SharedTextOptions, official_splits

REVISION = "210d026faf9955653af8916fad021475a3f00453"


def render(item: Row, where: str) -> Row:
    """Turn an item of the hub dataset into a row, without an id. The prompt is that of lm-eval's ``arc_challenge``."""
    question, choices = text_field(item, "question", where), item.get("choices")
    choices = choices if isinstance(choices, dict) else {}
    texts, labels = (list_field(choices, name, f"{where}, choices") for name in ("text", "label"))
    key = item.get("answerKey")
    if len(texts) != len(labels) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise TaskError(f"{where}: field 'choices' must hold as many texts as labels, found {choices!r}; mend the row")
    if key not in labels:
        raise TaskError(f"{where}: field 'answerKey' must be one of {labels}, found {key!r}; mend or remove the row")
    published = {"question": question, "choices": {"text": texts, "label": labels}, "answerKey": key}
    return choice_row(f"Question: {question}\nAnswer:", texts, labels.index(key), item=published)


TASK = Task(
    name="arc_challenge",
    summary="choose the answer to a hard question of a science exam (ARC-Challenge)",
    objective="sft",
    folds=(0,),
    headline="acc",
    licence="CC-BY-SA-4.0",
    Options=SharedTextOptions,
    prepare=official_splits(
        "arc_challenge",
        HubDataset(repo="allenai/ai2_arc", revision=REVISION, config="ARC-Challenge", split="train"),
        render,
        test="test",
        together="prompt",
    ),
    harness=Harness(("arc/arc_challenge.yaml",), "acc"),
)
