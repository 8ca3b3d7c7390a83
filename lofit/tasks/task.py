"""The classes of which a task consists: its options, its splits, and the task itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from lofit.errors import TaskError
from lofit.spec.protocol import HARNESS, OPEN, Protocol, scoring

if TYPE_CHECKING:
    from lofit.sources.fetcher import Fetcher

Row = dict[str, Any]
Objective = Literal["sft", "dpo"]


class TaskOptions(BaseModel):
    """Options every task has; a task adds its own in a subclass.

    Attributes:
        n_train: training rows to draw with the run's seed; None takes all.
        n_validation: validation rows to draw with the run's seed; None takes all.
        n_test: test rows to draw with a fixed seed, the same for every run; None takes all.
        overlap: what to do with a row whose overlap key (for most tasks the prompt) also occurs in a split used
            later, i.e. training row in validation or test, or validation row in test. ``refuse`` stops with an
            error, ``replace`` leaves such rows out (and draws others where a number was asked for), ``keep``
            leaves the data as published.
        WORDING: names of the options that decide what is asked and how it is scored. Where a configuration names a task
            twice, they must be the same.
    """

    WORDING: ClassVar[tuple[str, ...]] = ()

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    n_train: int | None = Field(default=None, ge=1)
    n_validation: int | None = Field(default=None, ge=1)
    n_test: int | None = Field(default=None, ge=1)
    overlap: Literal["refuse", "replace", "keep"] = "refuse"

    def configured(self, task: Task) -> Task:
        """Return the task with the definition and the headline that belong to these options: by default, its own."""
        return task


@dataclass
class Splits:
    """The three splits of a task, as lists of rows.

    A training row holds ``id``, the training fields (``prompt``, ``target`` for supervised fine-tuning;
    ``train_prompt``, ``chosen``, ``rejected`` for preference optimisation) and ``contrast``, made by
    :func:`contrast`. A test row holds ``id`` and the evaluation fields (``prompt`` with ``answers``, or with
    ``choices`` and ``gold`` or ``labels``) and the task's ``cluster_field``; it may hold ``stratum``, the
    name of a kind of item by which tables break scores down. A validation row holds all of these. An evaluation-only
    task has test rows only.
    """

    train: list[Row] = field(default_factory=list)
    validation: list[Row] = field(default_factory=list)
    test: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Harness:
    """lm-eval's own definitions of a task.

    Attributes:
        definitions: paths of YAML files below ``lm_eval/tasks``.
        headline: metric shown in tables; with several definitions, ``<lm-eval task>.<metric>``.
    """

    definitions: tuple[str, ...]
    headline: str


@dataclass(frozen=True)
class Task:
    """One benchmark task.

    Attributes:
        name: folder name; the lm-eval task is called ``lofit_<name>``.
        summary: one line for listings.
        objective: how training rows are used, ``sft`` or ``dpo``; None if the task is for evaluation only.
        folds: fold numbers; (0,) for a task with one split.
        headline: metric shown in tables, in [0, 1], higher is better.
        licence: licence of the data.
        Options: pydantic model of the task's options.
        prepare: (options, fold, seed, fetcher) -> Splits; returns all available rows, before subsets are drawn.
        overlap_key: row field whose text must not occur in two splits.
        cluster_key: row field whose text test items share that are not independent of each other, such as questions on
            one passage; None for ``overlap_key``. Read it as :attr:`cluster_field`.
        stratified: whether test rows hold a ``stratum``, the kind of item, by which a table breaks scores down.
        harness: lm-eval's own definitions, whose fields the test rows hold under ``item``; None if there are none.
        definition: path of the lm-eval definition; None for ``task.yaml`` in the task's folder.
        open_definition: path of an lm-eval definition in which the model answers in its own words, which judges may
            then read; None if there is none.
        overrides: keys of the definition to replace.
        files: for a custom task, the files from which the rows are read.
        described: for a custom task with a file of its own, what that file says of the rows.
        generated: whether as many rows are made as are asked for.
        plain_text: whether the rows are texts (``id`` and ``text``) that are scored directly, not through lm-eval; the
            headline is then in nats per token, and lower is better.
    """

    name: str
    summary: str
    objective: Objective | None
    folds: tuple[int, ...]
    headline: str
    licence: str
    Options: type[TaskOptions]
    prepare: Callable[[Any, int, int, Fetcher], Splits]
    overlap_key: str = "prompt"
    cluster_key: str | None = None
    stratified: bool = False
    harness: Harness | None = None
    definition: Path | None = None
    open_definition: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    described: Mapping[str, Any] = field(default_factory=dict)
    generated: bool = False
    plain_text: bool = False

    @property
    def cluster_field(self) -> str:
        """Row field that names the cluster of a test item: items with the same normalised text are dependent."""
        return self.cluster_key or self.overlap_key

    def headline_under(self, protocol: Protocol) -> str | None:
        """Return the metric shown in the tables of a protocol; None if the task is not scored under it."""
        if scoring(protocol) == HARNESS:
            return self.harness.headline if self.harness else None
        if scoring(protocol) == OPEN:
            return "rouge1_acc" if self.open_definition else None
        return self.headline


def contrast(prompt: str, right: list[str], wrong: list[str]) -> Row:
    """Return right and wrong answers to one question, from which ITI and RepE estimate their directions.

    Args:
        prompt: text before each answer.
        right: right answers as they follow the prompt, including leading spaces; at least one.
        wrong: wrong answers in the same form; at least one.
    """
    return {"prompt": prompt, "right": right, "wrong": wrong}


def choice_row(prompt: str, choices: list[str], gold: int, **fields: Any) -> Row:
    """Return a multiple-choice row without an id, in which a space separates the prompt from each choice.

    The target is the right choice; the contrast compares it with each of the other choices.

    Args:
        prompt: text before the choices.
        choices: the choices without the leading space.
        gold: index of the right choice.
        **fields: further fields of the row.
    """
    right = f" {choices[gold]}"
    wrong = list(dict.fromkeys(f" {choice}" for choice in choices if choice != choices[gold]))
    return {
        "prompt": prompt,
        "target": right,
        "contrast": contrast(prompt, [right], wrong),
        "choices": choices,
        "gold": gold,
        **fields,
    }


def text_field(row: Row, name: str, where: str) -> str:
    """Return the non-empty string ``row[name]``, unchanged.

    Raises:
        TaskError: the field is missing, not a string, or blank; ``where`` says which row.
    """
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise TaskError(f"{where}: field {name!r} must be a non-empty string, found {value!r}; fix or remove the row")
    return value


def list_field(row: Row, name: str, where: str, *, empty: bool = False) -> list[Any]:
    """Return the list ``row[name]``.

    Raises:
        TaskError: the field is missing or not a list, or it is empty and ``empty`` is False.
    """
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, list) or not (value or empty):
        raise TaskError(f"{where}: field {name!r} must be a list, found {value!r}; fix or remove the row")
    return value
