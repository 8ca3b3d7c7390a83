"""Custom tasks: JSON lines in a folder, or in files that a YAML file names."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from lofit.errors import TaskError
from lofit.spec.base import first_problem
from lofit.strict_yaml import read_yaml
from lofit.tasks.answers import canonical, lowered, same_text
from lofit.tasks.custom.table import BESIDE_ROWS, SUFFIXES, Description, labels, read_rows, to_fields
from lofit.tasks.custom.utils import process_results
from lofit.tasks.splits import cut_by, with_ids
from lofit.tasks.task import Row, Splits, Task, TaskOptions, contrast, list_field, text_field

Kind = Literal["generate", "choose", "prefer"]
FIELDS: dict[Kind, tuple[str, ...]] = {
    "generate": ("prompt", "answer"),
    "choose": ("prompt", "choices", "gold"),
    "prefer": ("prompt", "chosen", "rejected"),
}
N_WRONG = 3
"""Number of answers of other rows that serve as wrong answers, if a row of kind ``generate`` has no field ``wrong``."""
SEED = "own task"
"""Seed with which validation rows are set aside and wrong answers are drawn; it is fixed, so all runs use the same."""


def custom_task(name: str, path: Path, read: Description | None = None) -> Task:
    """Read a task from a folder of JSON lines, a data file, or a YAML file that describes it.

    The folder holds ``train.jsonl``, ``test.jsonl`` and optionally ``validation.jsonl``; without it, a tenth of the
    training rows is set aside for validation. Of a data file, test rows are set aside, too. Rows that share a prompt or
    a cluster stay together. The fields of the first training row, or the description, determine the kind of the task:

    - ``prompt`` and ``answer`` (or ``answers``): the model generates the answer.
    - ``prompt``, ``choices`` and ``gold``: the model chooses the most probable choice.
    - ``prompt``, ``chosen`` and ``rejected``: preference pairs.

    A row may name its ``cluster``, a text that dependent rows share (without it, rows with the same prompt are
    dependent), and a ``stratum``, a kind of item by which tables may break scores down.

    The rows themselves are checked when they are prepared.

    Args:
        name: name of the task.
        path: the folder or file.
        read: the description, unless it is the YAML file.

    Raises:
        TaskError: there is no such folder or file, or it does not describe a task.
    """
    folder, about = _describe(path, read)
    files = _files(path, folder, about)
    kind = _kind(files["train"], about)

    def prepare(options: TaskOptions, fold: int, seed: int, fetcher: Any) -> Splits:
        fetcher.provenance.extend({"kind": "own", "origin": str(file)} for file in files.values())
        return _prepare(name, kind, files, about)

    return Task(
        name=name,
        summary=about.summary,
        objective="dpo" if kind == "prefer" else "sft",
        folds=(0,),
        headline="exact_match" if kind == "generate" else "acc",
        licence=about.licence,
        Options=TaskOptions,
        prepare=prepare,
        stratified=bool(about.stratum)
        or (not about.prompt and any("stratum" in row for row in read_rows(files.get("test", files["train"])))),
        definition=Path(__file__).with_name("generate.yaml" if kind == "generate" else "choose.yaml"),
        overrides={"generation_kwargs": {"until": about.until, "max_gen_toks": about.max_gen_toks, "do_sample": False}}
        if kind == "generate"
        else {},
        files=tuple(files.values()),
        described={}
        if path.is_dir() or path.suffix.lower() in SUFFIXES
        else about.model_dump(mode="json", exclude=BESIDE_ROWS),
        cluster_key="cluster",
    )


def _describe(path: Path, read: Description | None) -> tuple[Path, Description]:
    """Return the folder to which paths are relative, and the description of the task."""
    if path.is_dir():
        return path, read or Description()
    if path.suffix.lower() in SUFFIXES:
        return path.parent, (read or Description()).model_copy(update={"train": Path(path.name)})
    if read:
        raise TaskError(
            f"{path}: neither a folder nor one of {', '.join(SUFFIXES)}, which `read` describes; remove one"
        )
    try:
        return path.parent, Description.model_validate(read_yaml(path, TaskError))
    except ValidationError as error:
        raise TaskError(f"{path}: {first_problem(error)}; fix the file") from None


def _files(path: Path, folder: Path, about: Description) -> dict[str, Path]:
    """Return the file of each split; of those that are not named, the one with the usual name if it is there."""
    files = {"train": folder / about.train}
    for split, given in (("test", about.test), ("validation", about.validation)):
        usual = folder / f"{split}.jsonl"
        if given or (usual.is_file() and path.suffix.lower() not in SUFFIXES):
            files[split] = folder / given if given else usual
    for file in files.values():
        if not file.is_file():
            raise TaskError(f"{path}: no file {file}; a task needs train.jsonl and test.jsonl, or a YAML naming them")
    if "test" not in files and path.is_dir() and not about.prompt:
        raise TaskError(f"{path}: no file {folder / 'test.jsonl'}; add it, or name a single file, whose rows are split")
    return files


def _kind(train: Path, about: Description) -> Kind:
    if about.prompt:
        return "choose" if about.label else "generate"
    row = _first_row(train)
    found = [
        kind
        for kind, names in FIELDS.items()
        if set(names) - {"answer"} <= set(row) and (kind != "generate" or {"answer", "answers"} & set(row))
    ]
    if len(found) == 1:
        return found[0]
    if found:
        other = ", ".join(name for kind in found for name in FIELDS[kind][1:] if name in row)
        raise TaskError(f"{train} row 1: fields of several kinds of tasks ({other}); keep those of one")
    raise TaskError(
        f"{train} row 1: needs prompt and answer, or prompt, choices and gold, or prompt, chosen and rejected; found "
        f"{', '.join(map(str, row)) or 'nothing'}; or say what its columns mean (prompt with answer or label)"
    )


def _first_row(file: Path) -> Row:
    rows = read_rows(file)
    return rows[0] if rows and isinstance(rows[0], dict) else {}


def _items(files: dict[str, Path], about: Description) -> dict[str, list[tuple[Row, str]]]:
    """Return the rows of every split as they are given, each with its place; test rows are set aside if need be."""
    read = {split: read_rows(files[split]) for split in ("test", "validation", "train") if split in files}
    where = {split: [f"{files[split].name} row {i + 1}" for i in range(len(rows))] for split, rows in read.items()}
    chosen_from = labels(read["train"], about, where["train"])
    items: dict[str, list[tuple[Row, str]]] = {
        split: list(zip(to_fields(rows, about, where[split], chosen_from), where[split], strict=True))
        for split, rows in read.items()
    }
    if "test" not in files:
        given = [
            _belongs(row, at) | {"prompt": text_field(row, "prompt", at), "item": (row, at)}
            for row, at in items["train"]
        ]
        parts = _set_aside(given, about.test_share, f"{SEED} {about.split_seed}", files["train"], "test")
        items["train"], items["test"] = ([row["item"] for row in part] for part in parts)
    return items


def _set_aside(rows: list[Row], share: float, seed: str, file: Path, split: str) -> list[list[Row]]:
    """Return the rows that are kept and those that are set aside; what shares a prompt or a cluster stays together."""
    parts = cut_by(rows, ("prompt", "cluster"), (1 - share, share), seed)
    if not all(parts):
        raise TaskError(
            f"{file}: all rows share a prompt or a cluster, so none can be set aside; give a file of {split} rows"
        )
    return parts


def _prepare(name: str, kind: Kind, files: dict[str, Path], about: Description) -> Splits:
    splits = ("test", "validation", "train")
    items = _items(files, about)
    given = {split: items.get(split, []) for split in splits}
    rows = {split: [_RENDER[kind](*item) | _belongs(*item) for item in given[split]] for split in splits}
    if kind == "generate":
        for split in splits:
            for row, (item, place) in zip(rows[split], given[split], strict=True):
                _check_generated(row, _prompt(item, place)[1], about.until, place)
        fitted = ("train", "validation")  # test rows are not contrasted
        # Each distinct answer once, so that each right answer of a row excludes at most one candidate.
        pool = {lowered(row["answers"][0]): row["answers"][0] for split in fitted for row in rows[split]}
        candidates = [pool[key] for key in sorted(pool)]
        for split in fitted:
            pairs = zip(rows[split], given[split], strict=True)
            rows[split] = [row | {"contrast": _contrast(row, item, candidates, place)} for row, (item, place) in pairs]
    seen: Counter[str] = Counter()
    read = {split: with_ids(name, rows[split], seen) for split in splits}
    if "validation" not in files:
        read["train"], read["validation"] = _set_aside(read["train"], 0.1, SEED, files["train"], "validation")
    return Splits(**read)


def _belongs(item: Row, where: str) -> Row:
    """Return the fields that say what else a row belongs to."""
    cluster = text_field(item, "cluster" if "cluster" in item else "prompt", where)
    return {"cluster": cluster} | ({"stratum": item["stratum"]} if "stratum" in item else {})


def _prompt(item: Row, where: str) -> tuple[str, str]:
    """Return the prompt, and the separator that precedes an answer which does not begin with whitespace.

    Spaces at the end of the prompt are moved to the beginning of the answer. Tokenizers join a space with the word that
    follows, so a prompt that ends with a space would be tokenized differently in training and in scoring. A line break
    at the end stays in the prompt.
    """
    given = text_field(item, "prompt", where)
    prompt = given.rstrip(" \t")
    return prompt, given[len(prompt) :] or ("" if prompt[-1].isspace() else " ")


def _after(between: str, answer: str) -> str:
    return answer if answer[0].isspace() else between + answer


def _texts(item: Row, name: str, where: str) -> list[str]:
    texts = list_field(item, name, where)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise TaskError(f"{where}: '{name}' must be non-empty strings, found {texts!r}; fix or remove the row")
    return texts


def _generate(item: Row, where: str) -> Row:
    prompt, between = _prompt(item, where)
    answers = _texts(item, "answers", where) if "answers" in item else [text_field(item, "answer", where)]
    return {"prompt": prompt, "target": _after(between, answers[0]), "answers": answers}


def _check_generated(row: Row, between: str, until: Sequence[str], where: str) -> None:
    """Raise TaskError if no answer of a row would count as right after it is cut at a stop string."""
    for answer in row["answers"]:
        text = _after(between, answer)
        for stop in until:
            text = text.split(stop)[0] if stop else text
        if process_results(row, [text])["exact_match"]:
            return
    stops = " or ".join(map(repr, until))
    raise TaskError(
        f"{where}: no output can match {row['answers'][0]!r}, since generation stops at {stops}; give other stop "
        "strings (until, in the task's YAML file), or change the answer"
    )


def _contrast(row: Row, item: Row, candidates: Sequence[str], where: str) -> Row:
    """Return right and wrong answers of a row of kind ``generate``; wrong ones are given, or answers of other rows."""
    if "wrong" in item:
        wrong = _texts(item, "wrong", where)
    else:
        taken = {lowered(answer) for answer in row["answers"]}
        drawn = random.Random(f"{SEED} {row['prompt']}").sample(candidates, min(N_WRONG + len(taken), len(candidates)))
        wrong = [answer for answer in drawn if lowered(answer) not in taken][:N_WRONG]
        if not wrong:
            raise TaskError(f"{where}: no other row has another answer; name wrong ones under 'wrong'")
    _, between = _prompt(item, where)
    return contrast(row["prompt"], *([_after(between, text) for text in texts] for texts in (row["answers"], wrong)))


def _choose(item: Row, where: str) -> Row:
    (prompt, between), choices = _prompt(item, where), list_field(item, "choices", where)
    gold = item.get("gold")
    if not all(isinstance(choice, str) and choice.strip() for choice in choices) or len({*map(canonical, choices)}) < 2:
        raise TaskError(f"{where}: 'choices' must be two or more different texts, found {choices!r}; fix the row")
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise TaskError(f"{where}: 'gold' must be the index of one of {len(choices)} choices, found {gold!r}")
    following = [_after(between, choice) for choice in choices]
    wrong = list(dict.fromkeys(text for text in following if not same_text(text, following[gold])))
    return {
        "prompt": prompt,
        "target": following[gold],
        "contrast": contrast(prompt, [following[gold]], wrong),
        "choices": following,
        "gold": gold,
    }


def _prefer(item: Row, where: str) -> Row:
    prompt, between = _prompt(item, where)
    pair = [_after(between, text_field(item, name, where)) for name in ("chosen", "rejected")]
    if same_text(*pair):
        raise TaskError(f"{where}: 'chosen' and 'rejected' are the same text {pair[0]!r}; fix or remove the row")
    return {
        "prompt": prompt,
        "train_prompt": prompt,
        "chosen": pair[0],
        "rejected": pair[1],
        "contrast": contrast(prompt, pair[:1], pair[1:]),
        "choices": pair,
        "gold": 0,
    }


_RENDER = {"generate": _generate, "choose": _choose, "prefer": _prefer}
