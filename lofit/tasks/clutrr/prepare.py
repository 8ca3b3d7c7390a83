"""CLUTRR splits of the LoFiT authors. See README.md for the source of each choice."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lofit.errors import TaskError
from lofit.sources.source import PinnedFile
from lofit.tasks.task import Row, Splits, Task, TaskOptions, contrast, text_field

if TYPE_CHECKING:
    from lofit.sources.fetcher import Fetcher

URL = "https://raw.githubusercontent.com/fc2869/lo-fit/ebd344a273d3dab0b63d8bbfd7ecdb5185ae5b7b/dataset/clutrr"
SHA256 = {
    "train": "8640526e573444bdf52bd78eee0bf3a9f2e96bb3bb6d7610021dc05751a5c873",
    "val": "afcae888ed7862081496151a33b9bed157d709b01589c2db566266ecdd906f1e",
    "test": "cf400381f8a12a703265f95df1387c217a71525325f725ff2b8dc08123c30056",
}
FILES = {
    split: PinnedFile(url=f"{URL}/{split}.json", sha256=digest, mirror=f"lofit-paper-splits/clutrr/{split}.json")
    for split, digest in SHA256.items()
}
TEMPLATE = (
    'Read the following story about a family. "{story}" Assume the relations described in the story are all true. '
    "Based on relations between the fictional characters in the story (assume the relations are all true) and your "
    "commonsense knowledge about family relationship, how is {second} related to {first}? "
    "Answer: {second} is {first} 's\n"
)
# The 18 relations in the two-hop files.
RELATIONS = (
    "aunt", "brother", "daughter", "daughter-in-law", "father", "father-in-law", "granddaughter", "grandfather",
    "grandmother", "grandson", "mother", "mother-in-law", "nephew", "niece", "sister", "son", "son-in-law", "uncle",
)  # fmt: skip

_WORD = re.compile(r"\w+(?:-\w+)*")


class Options(TaskOptions):
    """CLUTRR options.

    Attributes:
        overlap: ``replace`` by default, since the authors' files share stories between splits (see README.md);
            ``replace_stories`` takes stories that differ in names only for the same; ``keep`` gives the authors' data.
        compat_double_space: keep the authors' blank before the second name, which doubles the blank in the prompt.
    """

    overlap: Literal["refuse", "replace", "replace_stories", "keep"] = "replace"  # type: ignore[assignment]
    compat_double_space: bool = False

    def configured(self, task: Task) -> Task:
        """Return the task, with the field by which rows are compared between splits."""
        return replace(task, overlap_key="story") if self.overlap == "replace_stories" else task


def unnamed(story: str) -> str:
    """Return a story with its bracketed names numbered in the order of appearance, such as "[0] has a son".

    A sentence that somebody wrote is published with several sets of names.
    """
    numbers: dict[str, int] = {}
    return re.sub(r"\[([^\]]*)\]", lambda name: f"[{numbers.setdefault(name[1], len(numbers))}]", story)


def render(item: Row, double_space: bool, where: str) -> Row:
    """Turn one item of the authors' file into a row with training and evaluation fields.

    The line break after "'s" belongs to the prompt; the target is the relation alone.
    """
    query = text_field(item, "query", where)
    names = re.fullmatch(r"\('([^',]+)',( )'([^',]+)'\)", query)
    if names is None:
        raise TaskError(f"{where}: field 'query' must look like ('A', 'B'), found {query!r}; fix or remove the row")
    first, blank, second = names.groups()
    relation = text_field(item, "target_text", where)
    if relation not in RELATIONS:
        raise TaskError(f"{where}: field 'target_text' must be a known relation, found {relation!r}; fix the row")
    row_id = text_field(item, "id", where)
    story = text_field(item, "clean_story", where)
    prompt = TEMPLATE.format(
        story=story.replace("[", "").replace("]", ""),
        first=first,
        second=blank + second if double_space else second,
    )
    wrong = random.Random(row_id).choice([name for name in RELATIONS if name != relation])
    return {
        "id": row_id,
        "prompt": prompt,
        "target": relation,
        "contrast": contrast(prompt, [relation], [wrong]),
        "answers": [relation],
        "story": unnamed(story),
        "stratum": f"answer is {'' if relation in _WORD.findall(story.lower()) else 'not '}in the story",
    }


def _rows(path: Path, double_space: bool) -> list[Row]:
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise TaskError(f"{path}: not valid JSON ({error.msg} at line {error.lineno}); fix the file") from None
    if not isinstance(items, list):
        raise TaskError(f"{path}: expected a JSON array of items, found {type(items).__name__}; fix the file")
    return [render(item, double_space, f"{path.name} row {i}") for i, item in enumerate(items)]


def prepare(options: Options, fold: int, seed: int, fetcher: Fetcher) -> Splits:
    """Read the authors' 3,151 / 450 / 450 items."""
    double = options.compat_double_space
    return Splits(
        train=_rows(fetcher.file(FILES["train"]), double),
        validation=_rows(fetcher.file(FILES["val"]), double),
        test=_rows(fetcher.file(FILES["test"]), double),
    )


TASK = Task(
    name="clutrr",
    summary="infer a two-hop family relation from a story (CLUTRR, splits of the LoFiT paper)",
    objective="sft",
    folds=(0,),
    headline="exact_match",
    licence="CC BY-NC 4.0",
    Options=Options,
    prepare=prepare,
    cluster_key="story",
    stratified=True,
)
