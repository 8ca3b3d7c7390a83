"""Make the splits of tasks from the official splits of a hub dataset, as most tasks do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from lofit.errors import TaskError
from lofit.sources.source import HubDataset
from lofit.tasks.splits import cut_by, with_ids
from lofit.tasks.task import Row, Splits, TaskOptions, list_field, text_field

if TYPE_CHECKING:
    from lofit.sources.fetcher import Fetcher


class SharedTextOptions(TaskOptions):
    """Options of a task whose official splits share texts.

    Attributes:
        overlap: ``replace`` by default: rows that share their text with a later split are left out.
    """

    overlap: Literal["refuse", "replace", "keep"] = "replace"


def official_splits(
    name: str,
    source: HubDataset,
    render: Callable[..., Row],
    *,
    test: Literal["test", "validation"],
    group_by: str,
    with_options: bool = False,
    cluster: Callable[[list[Row]], list[str]] | None = None,
) -> Callable[[TaskOptions, int, int, Fetcher], Splits]:
    """Return the ``prepare`` function of a task that trains on the official training split and tests on another.

    A tenth of the training texts is set aside as validation with a fixed seed, independent of the run's seed. This also
    gives a validation split to tasks whose official validation split serves as test.

    Args:
        name: name of the task.
        source: the official training split.
        render: turns an item into a row without an id; its second argument describes the item for error messages.
        test: the official split to test on.
        group_by: field of the rows; rows with the same text in it are kept in the same split, as are those of a
            cluster.
        with_options: whether the task's options are a third argument of ``render``.
        cluster: for a task whose items do not say which of them belong together, returns the text of the field
            ``cluster`` for every row of an official split.
    """

    def prepare(options: TaskOptions, fold: int, seed: int, fetcher: Fetcher) -> Splits:
        seen: Counter[str] = Counter()
        rows, more = {}, (options,) if with_options else ()
        for split in (test, "train"):
            items = fetcher.hub_rows(source.model_copy(update={"split": split}))
            rendered = [render(item, f"{source.repo} {split} row {i}", *more) for i, item in enumerate(items)]
            rows[split] = with_ids(name, rendered, seen)
            if cluster:
                named = zip(rows[split], cluster(rows[split]), strict=True)
                rows[split] = [row | {"cluster": text} for row, text in named]
        together = [group_by, "cluster"] if cluster else [group_by]
        train, validation = cut_by(rows["train"], together, (0.9, 0.1), f"{name} cut")
        return Splits(train=train, validation=validation, test=rows[test])

    return prepare


def single_split(
    name: str, source: HubDataset, render: Callable[[Row, str], Row]
) -> Callable[[TaskOptions, int, int, Fetcher], Splits]:
    """Return the ``prepare`` function of an evaluation-only task whose rows are one official split.

    Args:
        name: name of the task.
        source: the split.
        render: turns an item into a row without an id; its second argument describes the item for error messages.
    """

    def prepare(options: TaskOptions, fold: int, seed: int, fetcher: Fetcher) -> Splits:
        rows = [render(item, f"{source.repo} row {i}") for i, item in enumerate(fetcher.hub_rows(source))]
        return Splits(test=with_ids(name, rows, Counter()))

    return prepare


def labelled_choices(item: Row, where: str) -> tuple[list[str], int, Row]:
    """Read the choices of an item in the schema of AI2's datasets, which has texts, labels and the label of the answer.

    Returns:
        The texts, the index of the right one, and the fields as published.

    Raises:
        TaskError: the fields are malformed, or no choice has the label of the answer.
    """
    given = item.get("choices")
    choices: Row = given if isinstance(given, dict) else {}
    texts, labels = (list_field(choices, name, f"{where}, choices") for name in ("text", "label"))
    key = text_field(item, "answerKey", where).strip()
    if len(texts) != len(labels) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise TaskError(f"{where}: field 'choices' must hold as many texts as labels, found {choices!r}; fix the row")
    if key not in labels:
        raise TaskError(f"{where}: field 'answerKey' must be one of {labels}, found {key!r}; fix or remove the row")
    return texts, labels.index(key), {"choices": {"text": texts, "label": labels}, "answerKey": key}
