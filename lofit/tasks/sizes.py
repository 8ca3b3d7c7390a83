"""How many rows a task has, and of how many tokens, before its data are fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from statistics import fmean
from typing import Any

import yaml

from lofit.tasks import lm_eval_config
from lofit.tasks.task import Row, Splits, Task, TaskOptions

SPLITS = ("train", "validation", "test")
SLACK = 1.02
"""Folds differ by a row, and splits that are cut by texts by a few."""


@cache
def task_sizes() -> dict[str, dict[str, Any]]:
    """Rows and mean tokens of every task of the package (``lofit/tasks/sizes.yaml``)."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(files(__package__).joinpath("sizes.yaml").read_text("utf-8"))
    return found


def too_many(task: Task, options: TaskOptions) -> Iterator[tuple[str, str]]:
    """Yield ``(option, problem)`` for every number of rows that a task of the package does not have."""
    size = task_sizes().get(task.name)
    if task.files or task.generated or size is None:
        return
    numbers = {f"n_{split}": split for split in SPLITS}
    others = [one.model_dump(exclude=set(numbers)) for one in (options, task.Options())]
    if others[0] != others[1]:
        return  # they may decide which rows there are
    for option, split in numbers.items():
        asked = getattr(options, option)
        if asked and asked > SLACK * size[split]:
            yield option, f"{asked:,} rows asked for, of about {size[split]:,}; ask for fewer, or leave it out"


def measured(task: Task, splits: Splits, tokens: Callable[[str], int]) -> dict[str, Any]:
    """Return the sizes of prepared rows, in the form of :func:`task_sizes`: rows, and mean tokens.

    Args:
        task: the task.
        splits: its rows.
        tokens: number of tokens of a text.
    """
    settings = {} if task.plain_text else lm_eval_config(task).get("generation_kwargs") or {}

    def row_tokens(row: Row) -> int:
        if "chosen" in row:
            return sum(tokens(row["train_prompt"] + row[answer]) for answer in ("chosen", "rejected"))
        return tokens(row["prompt"] + row["target"])

    def item_tokens(row: Row) -> int:
        if task.plain_text:
            return 2 * tokens(row["text"])  # read by the base model as well
        answers = [tokens(f" {choice}") for choice in row.get("choices", [])]
        return tokens(row["prompt"]) + (sum(answers) if answers else int(settings["max_gen_toks"]))

    found: dict[str, Any] = {split: len(getattr(splits, split)) for split in SPLITS}
    if splits.train:
        found["row_tokens"] = round(fmean(map(row_tokens, splits.train)), 1)
    found["item_tokens"] = round(fmean(map(item_tokens, splits.test)), 1)
    return found
