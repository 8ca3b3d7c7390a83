"""Make questions with one right and one wrong answer, from ITI's versions of question-answering data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from lofit.sources.source import HubDataset
from lofit.tasks.answers import exact_match
from lofit.tasks.splits import with_ids
from lofit.tasks.task import Row, Splits, TaskOptions, choice_row, text_field
from lofit.tasks.truthfulqa.prepare import asked, scored_form

if TYPE_CHECKING:
    from lofit.sources.fetcher import Fetcher


def two_choices(
    name: str, source: HubDataset, right_answers: Callable[[Row, str], list[str]]
) -> Callable[[TaskOptions, int, int, Fetcher], Splits]:
    """Return the ``prepare`` function of an evaluation-only task; prompt and form of answers are those of truthfulqa.

    Items whose wrong answer is one of the right ones, by SQuAD's exact match, are left out.

    Args:
        name: name of the task.
        source: the split; its items hold ``question`` and ``false_answer``.
        right_answers: returns the right answers of an item, first the one that is scored; its second argument describes
            the item for error messages.
    """

    def prepare(options: TaskOptions, fold: int, seed: int, fetcher: Fetcher) -> Splits:
        rows = []
        for i, item in enumerate(fetcher.hub_rows(source)):
            where = f"{source.repo} row {i}"
            prompt = f"{asked(text_field(item, 'question', where).strip())}\nA:"
            right, wrong = right_answers(item, where), text_field(item, "false_answer", where)
            if not exact_match(wrong, right):
                rows.append(choice_row(prompt, [scored_form(answer.strip()) for answer in (right[0], wrong)], 0))
        return Splits(test=with_ids(name, rows, Counter()))

    return prepare
