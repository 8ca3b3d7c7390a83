"""Check the rows of a task and draw its subsets with a seed."""

from __future__ import annotations

import hashlib
import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from lofit.errors import TaskError
from lofit.tasks.answers import canonical, same_text
from lofit.tasks.task import Objective, Row, Splits, Task, TaskOptions, list_field, text_field

TRAINING_FIELDS = {"sft": ("prompt", "target"), "dpo": ("train_prompt", "chosen", "rejected")}
TEST_SEED = 0
"""Seed of the test draw: fixed, so that every run of a benchmark scores the same items."""
SIMILAR = 0.7
"""Ratio of common words from which texts are of one family: rewritten sentences lie above, unrelated ones below."""
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def normalised(text: str) -> str:
    """Return the form of a text in which overlap between splits is detected: :func:`canonical`, case-folded, in NFKC.

    With NFKC, characters that only look alike, such as full-width digits and ligatures, count as the same here.
    """
    return canonical(unicodedata.normalize("NFKC", text)).casefold()


def with_ids(name: str, rows: list[Row], seen: Counter[str]) -> list[Row]:
    """Give each row an id made from its content, so that it does not depend on source or position.

    Rows with the same content are numbered.

    Args:
        name: name of the task, which the ids begin with.
        rows: rows with the evaluation fields.
        seen: counts of the contents so far, over all splits; updated in place.
    """
    out = []
    for row in rows:
        content = [row[field] for field in ("prompt", "choices", "gold", "answers") if field in row]
        digest = hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:12]
        seen[digest] += 1
        suffix = f"-{seen[digest]}" if seen[digest] > 1 else ""
        out.append({"id": f"{name}-{digest}{suffix}", **row})
    return out


def cut_by(rows: list[Row], fields: Sequence[str], shares: Sequence[float], seed: str) -> list[list[Row]]:
    """Split rows into parts that hold about ``shares`` of the families of rows, and at least one while there are any.

    Rows that have the same :func:`normalised` text in a field, such as the passage, are of one family, as are those
    that a chain of such rows joins. A family is in one part. Within a part, the rows keep their order.

    Args:
        rows: the rows to split.
        fields: the fields whose texts stay together.
        shares: share of each part; they add up to 1.
        seed: seed of the split.
    """
    family = _families([[normalised(row[field]) for field in fields] for row in rows])
    names = sorted(set(family))
    random.Random(seed).shuffle(names)
    part_of: dict[str, int] = {}
    start, end = 0, 0.0
    for part, share in enumerate(shares):
        end += share * len(names)
        left = len(shares) - 1 - part
        stop = max(start + 1, min(round(end), len(names) - left)) if left else len(names)
        part_of.update(dict.fromkeys(names[start:stop], part))
        start = stop
    parts: list[list[Row]] = [[] for _ in shares]
    for row, name in zip(rows, family, strict=True):
        parts[part_of[name]].append(row)
    return parts


def _families(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return for every row, given as its texts, the least first text of those that equal texts join it with."""
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    seen: dict[tuple[int, str], int] = {}
    for i, texts in enumerate(rows):
        for field, text in enumerate(texts):
            parent[root(i)] = root(seen.setdefault((field, text), i))
    names: dict[int, str] = {}
    for i, texts in enumerate(rows):
        names[root(i)] = min(names.get(root(i), texts[0]), texts[0])
    return [names[root(i)] for i in range(len(rows))]


def similar_texts(texts: Sequence[str], groups: Sequence[Hashable]) -> list[str]:
    """Return for every text the first one of its family, which names it.

    Two texts of a group belong to one family if difflib's ratio of their words is at least SIMILAR, or if they are
    joined by a chain of such pairs. Case and whitespace play no part, and all numbers are the same. The comparison is
    quadratic in the size of a group.

    Args:
        texts: the texts, such as the sentences of a split.
        groups: what only texts of one family share, such as the names in a sentence.
    """
    words = [_NUMBER.sub("0", normalised(text)).split() for text in texts]
    members: dict[Hashable, list[int]] = {}
    first = list(range(len(texts)))
    for i, group in enumerate(groups):
        near = {first[j] for j in members.setdefault(group, []) if _similar(words[i], words[j])}
        members[group].append(i)
        joined = min(near, default=i)
        for j in members[group]:
            if j == i or first[j] in near:
                first[j] = joined
    return [texts[i] for i in first]


def _similar(one: list[str], other: list[str]) -> bool:
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    # cheap upper bounds of the ratio come first
    return all(ratio() >= SIMILAR for ratio in (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio))


def check_training_row(row: Row, objective: Objective, where: str) -> None:
    """Raise TaskError unless the row has valid training fields for ``objective``."""
    for name in TRAINING_FIELDS[objective]:
        text_field(row, name, where)
    pairs = row.get("contrast") or {}
    text_field(pairs, "prompt", f"{where}, contrast")
    for side in ("right", "wrong"):
        answers = list_field(pairs, side, f"{where}, contrast")
        if not all(isinstance(answer, str) and answer.strip() for answer in answers):
            raise TaskError(f"{where}, contrast: {side!r} must be non-empty strings, found {answers!r}; fix the row")
    if both := sorted(set(pairs["right"]) & set(pairs["wrong"])):
        raise TaskError(f"{where}, contrast: {both[0]!r} is both right and wrong; fix or remove the row")
    if objective == "dpo" and same_text(row["chosen"], row["rejected"]):
        raise TaskError(f"{where}: 'chosen' and 'rejected' are the same text {row['chosen']!r}; fix or remove the row")


def check_evaluation_row(row: Row, where: str) -> None:
    """Raise TaskError unless the row has valid evaluation fields of one of the three kinds of task."""
    text_field(row, "prompt", where)
    if "choices" not in row:
        if not all(isinstance(answer, str) and answer.strip() for answer in list_field(row, "answers", where)):
            raise TaskError(f"{where}: 'answers' must be non-empty strings, found {row['answers']!r}; fix the row")
        return
    choices = list_field(row, "choices", where)
    if not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise TaskError(f"{where}: 'choices' must be non-empty strings, found {choices!r}; fix the row")
    if "labels" in row:
        labels = list_field(row, "labels", where)
        if len(labels) != len(choices) or labels[0] != 1 or set(labels) != {0, 1}:
            raise TaskError(
                f"{where}: 'labels' must hold one 0 or 1 per choice, 1 first and at least one 0, found {labels!r}"
            )
        if any(same_text(choice, choices[0]) for choice, label in zip(choices, labels, strict=True) if not label):
            raise TaskError(f"{where}: the best answer {choices[0]!r} is a wrong one too; fix or remove the row")
    elif not isinstance(gold := row.get("gold"), int) or not 0 <= gold < len(choices):
        raise TaskError(f"{where}: 'gold' must be the index of one of {len(choices)} choices, found {gold!r}")
    elif all(same_text(choice, choices[gold]) for choice in choices):  # some published rows repeat the right one
        raise TaskError(f"{where}: all choices are the same text {choices[gold]!r}; fix or remove the row")


def check_splits(task: Task, splits: Splits) -> None:
    """Check the fields of every row, and that ids are unique over all splits.

    Raises:
        TaskError: a row is malformed (the message names task, split, row and field), or a split is empty.
    """
    seen: set[str] = set()
    for split in ("train", "validation", "test"):
        rows: list[Row] = getattr(splits, split)
        if not rows and (split == "test" or task.objective):
            raise TaskError(f"task {task.name}: the {split} split is empty; check the source of its data")
        for index, row in enumerate(rows):
            where = f"task {task.name}, {split} row {index}"
            row_id = text_field(row, "id", where)
            if row_id in seen:
                raise TaskError(f"{where}: id {row_id!r} is used twice; ids must be unique over all splits")
            seen.add(row_id)
            text_field(row, task.overlap_key, where)
            if split != "test" and task.objective:
                check_training_row(row, task.objective, where)
            if split != "train":
                text_field(row, task.cluster_field, where)
                if "stratum" in row:
                    text_field(row, "stratum", where)
                if not task.plain_text:
                    check_evaluation_row(row, where)


@dataclass(frozen=True)
class Draw:
    """A drawn subset.

    Attributes:
        indices: indices of the drawn rows among the available rows, in the order of use.
        excluded: indices of rows that were left out because they overlap with a later split.
    """

    indices: list[int]
    excluded: list[int]


def draw(rows: list[Row], n: int | None, seed: int, banned: set[int], *, what: str) -> Draw:
    """Draw ``n`` of ``rows``, or take all of them in file order if ``n`` is None.

    The draw is ``random.Random(seed).sample(range(len(rows)), n)`` in drawn order. For the 3,151 CLUTRR rows and seed
    42, this gives the subset of the LoFiT authors' script (fc2869/lo-fit, ``utils/dataloaders.py``). Each drawn row
    whose index is in ``banned`` is replaced in its position by a further draw among the rows that are neither drawn nor
    banned.

    Raises:
        TaskError: fewer than ``n`` rows are available.
    """
    if n is None:
        return Draw([i for i in range(len(rows)) if i not in banned], sorted(banned))
    available = len(rows) - len(banned)
    if n > available:
        raise TaskError(f"{what}: {n} rows asked for, {available} available; ask for fewer or leave it out")
    rng = random.Random(seed)
    drawn = rng.sample(range(len(rows)), n)
    excluded = [i for i in drawn if i in banned]
    taken = set(drawn)
    spare = rng.sample([i for i in range(len(rows)) if i not in taken and i not in banned], len(excluded))
    replacement = dict(zip(excluded, spare, strict=True))
    return Draw([replacement.get(i, i) for i in drawn], sorted(excluded))


def _banned(task: Task, options: TaskOptions, split: str, rows: list[Row], later: Iterable[Row]) -> set[int]:
    """Return the indices of rows whose overlap key occurs in ``later``; raise TaskError if overlap is refused."""
    if options.overlap == "keep":
        return set()
    keys = {normalised(row[task.overlap_key]) for row in later}
    found = {i for i, row in enumerate(rows) if normalised(row[task.overlap_key]) in keys}
    if found and options.overlap == "refuse":
        first = rows[min(found)]
        raise TaskError(
            f"task {task.name}: {len(found)} {split} rows share their {task.overlap_key} with a later split (first: "
            f"id {first['id']!r}); set overlap to replace or keep (an option, `lofit train --overlap`), or fix the data"
        )
    return found


def draw_splits(task: Task, options: TaskOptions, seed: int, splits: Splits) -> dict[str, Draw]:
    """Draw the subsets of all three splits.

    Overlap is checked against all available rows of the later splits, not only the drawn ones, so the training subset
    depends on ``n_train`` and ``seed`` only. The test draw is sorted and uses TEST_SEED.

    Raises:
        TaskError: splits overlap although the options forbid it, or there are too few rows.
    """
    banned_train = _banned(task, options, "train", splits.train, [*splits.validation, *splits.test])
    banned_validation = _banned(task, options, "validation", splits.validation, splits.test)
    name = f"task {task.name}"
    test = draw(splits.test, options.n_test, TEST_SEED, set(), what=f"{name}, n_test")
    return {
        "train": draw(splits.train, options.n_train, seed, banned_train, what=f"{name}, n_train"),
        "validation": draw(
            splits.validation, options.n_validation, seed, banned_validation, what=f"{name}, n_validation"
        ),
        "test": Draw(sorted(test.indices), test.excluded),
    }
