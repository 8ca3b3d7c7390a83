"""MQuAKE splits of the LoFiT authors. See README.md for the source of each choice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lofit.errors import TaskError
from lofit.files import read_jsonl
from lofit.sources.source import PinnedFile
from lofit.tasks.answers import lowered
from lofit.tasks.task import Row, Splits, Task, TaskOptions, contrast, list_field, text_field

if TYPE_CHECKING:
    from lofit.sources.fetcher import Fetcher

URL = "https://raw.githubusercontent.com/fc2869/lo-fit/ebd344a273d3dab0b63d8bbfd7ecdb5185ae5b7b/dataset/MQuAKE"
SHA256 = {
    "train": "5db931bd09457245d1a133fe8df86a45985d28767ba6f032d1b7dcc737e22498",
    "val": "3cbf9245ba671458d0979c5bba569e838d54fce860e8d0c5af0bc2ce54d41e83",
    "test": "3090ef350f4322878968466881de9ec988b5b71daf55d5d9b04fb894a5ebac87",
}
FILES = {
    split: PinnedFile(url=f"{URL}/{split}.jsonl", sha256=digest, mirror=f"lofit-paper-splits/mquake/{split}.jsonl")
    for split, digest in SHA256.items()
}


class Options(TaskOptions):
    """MQuAKE options.

    Attributes:
        compat_glued_answer: train on the authors' targets, glued to "A:" without a blank, instead of one leading blank.
    """

    compat_glued_answer: bool = False


def render(item: Row, separator: str, where: str) -> Row:
    """Turn one item of the authors' file into a row with training and evaluation fields.

    As in the authors' code, only the first of the three paraphrased questions is used, in all splits.
    """
    rewrites = list_field(item, "requested_rewrite", where)
    if len(rewrites) != 1:
        raise TaskError(f"{where}: expected one requested_rewrite, found {len(rewrites)}; fix or remove the row")
    cloze = text_field(rewrites[0], "prompt", where)
    if cloze.count("{}") != 1:
        raise TaskError(f"{where}: the rewrite {cloze!r} needs one {{}} for its subject; fix or remove the row")
    subject = text_field(rewrites[0], "subject", where)
    edited = text_field(rewrites[0].get("target_new"), "str", where)
    questions = list_field(item, "questions", where)
    question = text_field({"questions[0]": questions[0]}, "questions[0]", where)
    answer = text_field(item, "new_answer", where)
    aliases = list_field(item, "new_answer_alias", where, empty=True)
    if not isinstance(item.get("case_id"), int):
        raise TaskError(f"{where}: field 'case_id' must be an integer, found {item.get('case_id')!r}; fix the row")
    edit = f"{cloze.replace('{}', subject)} {edited}"
    prompt = f"Q: Imagine that {edit}. {question} A:"
    return {
        "id": f"mquake-{item['case_id']}",
        "prompt": prompt,
        "target": separator + answer,
        "contrast": contrast(prompt, [separator + answer], [separator + text_field(item, "answer", where)]),
        "answers": [answer, *aliases],
        "separator": separator,
        "edit": edit,
        "edited": edited,
    }


def with_strata(rows: list[Row], train: list[Row]) -> list[Row]:
    """Add to every row whether a right answer can be copied from the prompt, or is one that was trained.

    Texts are the same if ``exact_match`` says so.

    Args:
        rows: rows with evaluation fields.
        train: all training rows, of which a run may draw some, so that an item is in one stratum for all runs.
    """
    trained = {lowered(row["answers"][0]) for row in train}

    def stratum(row: Row) -> str:
        right = {lowered(answer) for answer in row["answers"]}
        if lowered(row["edited"]) in right:
            return "answer is the edited object"
        return "answer occurs in training" if right & trained else "neither"

    return [row | {"stratum": stratum(row)} for row in rows]


def _rows(path: Path, separator: str) -> list[Row]:
    return [render(item, separator, f"{path.name} row {i}") for i, item in enumerate(read_jsonl(path))]


def prepare(options: Options, fold: int, seed: int, fetcher: Fetcher) -> Splits:
    """Read the authors' 134 / 95 / 864 items."""
    separator = "" if options.compat_glued_answer else " "
    train, validation, test = (_rows(fetcher.file(FILES[split]), separator) for split in ("train", "val", "test"))
    return Splits(train=train, validation=with_strata(validation, train), test=with_strata(test, train))


TASK = Task(
    name="mquake",
    summary="multi-hop questions under one edited fact (MQuAKE, splits of the LoFiT paper)",
    objective="sft",
    folds=(0,),
    headline="exact_match",
    licence="MIT",
    Options=Options,
    prepare=prepare,
    cluster_key="edit",
    stratified=True,
)
