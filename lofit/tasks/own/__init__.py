"""Tasks of the user's own: JSON lines in a folder, or named by a YAML file."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lofit.errors import TaskError
from lofit.files import read_jsonl
from lofit.strict_yaml import read_yaml
from lofit.tasks.base import Row, Splits, Task, TaskOptions, contrast, list_field, text_field
from lofit.tasks.splits import cut_by, with_ids

Kind = Literal["generate", "choose", "prefer"]
FIELDS: dict[Kind, tuple[str, ...]] = {
    "generate": ("prompt", "answer"),
    "choose": ("prompt", "choices", "gold"),
    "prefer": ("prompt", "chosen", "rejected"),
}
N_WRONG = 3
"""Answers of other rows that serve as wrong ones, where a row of kind ``generate`` names none."""
SEED = "own task"
"""Seed of the cut of the validation rows and of the wrong answers; fixed, so that every run has the same."""


class Description(BaseModel):
    """What a YAML file says of a task; its paths are relative to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: Path = Path("train.jsonl")
    validation: Path | None = None
    test: Path = Path("test.jsonl")
    summary: str = "a task of one's own"
    licence: str = "not stated"
    max_gen_toks: int = Field(default=32, ge=1)
    until: list[str] = ["\n"]


def own_task(name: str, path: Path) -> Task:
    """Read a task from a folder of JSON lines, or from a YAML file that names them.

    The folder holds ``train.jsonl``, ``test.jsonl`` and, if there is one, ``validation.jsonl``; without one a tenth of
    the training prompts is set aside. The fields of the first training row say what kind of task it is: ``prompt`` and
    ``answer`` (or ``answers``) are generated, ``prompt``, ``choices`` and ``gold`` chosen from, ``prompt``, ``chosen``
    and ``rejected`` preferred. The rows themselves are checked when they are prepared.

    Raises:
        TaskError: there is no such folder or file, or it describes no task.
    """
    folder, about = _describe(path.expanduser())
    validation = about.validation or (Path("validation.jsonl") if (folder / "validation.jsonl").is_file() else None)
    files = {"train": folder / about.train, "test": folder / about.test}
    if validation:
        files["validation"] = folder / validation
    for file in files.values():
        if not file.is_file():
            raise TaskError(f"{path}: no file {file}; a task needs train.jsonl and test.jsonl, or a YAML naming them")
    kind = _kind(files["train"])

    def prepare(options: TaskOptions, fold: int, seed: int, fetcher: Any) -> Splits:
        fetcher.provenance.extend({"kind": "own", "origin": str(file)} for file in files.values())
        return _prepare(name, kind, files)

    return Task(
        name=name,
        summary=about.summary,
        objective="dpo" if kind == "prefer" else "sft",
        folds=(0,),
        headline="exact_match" if kind == "generate" else "acc",
        licence=about.licence,
        Options=TaskOptions,
        prepare=prepare,
        definition=Path(__file__).with_name("generate.yaml" if kind == "generate" else "choose.yaml"),
        overrides={"generation_kwargs": {"until": about.until, "max_gen_toks": about.max_gen_toks, "do_sample": False}}
        if kind == "generate"
        else {},
        files=tuple(files.values()),
    )


def _describe(path: Path) -> tuple[Path, Description]:
    """The folder that paths are relative to, and the description."""
    if path.is_dir():
        return path, Description()
    try:
        return path.parent, Description.model_validate(read_yaml(path, TaskError))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise TaskError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}; mend the file") from None


def _kind(train: Path) -> Kind:
    rows = read_jsonl(train)
    row = rows[0] if rows and isinstance(rows[0], dict) else {}
    for kind, names in FIELDS.items():
        if set(names) - {"answer"} <= set(row) and (kind != "generate" or {"answer", "answers"} & set(row)):
            return kind
    raise TaskError(
        f"{train} row 0: needs prompt and answer, or prompt, choices and gold, or prompt, chosen and rejected; found "
        f"{', '.join(map(str, row)) or 'nothing'}"
    )


def _prepare(name: str, kind: Kind, files: dict[str, Path]) -> Splits:
    seen: Counter[str] = Counter()
    read: dict[str, list[Row]] = {}
    for split in ("test", "validation", "train"):
        items = read_jsonl(files[split]) if split in files else []
        where = {i: f"{files[split].name} row {i}" for i in range(len(items))} if items else {}
        rows = [_RENDER[kind](item, where[i]) for i, item in enumerate(items)]
        if kind == "generate":
            rows = [_with_contrast(row, rows, items[i], where[i]) for i, row in enumerate(rows)]
        read[split] = with_ids(name, rows, seen)
    if "validation" not in files:
        read["train"], read["validation"] = cut_by(read["train"], "prompt", (0.9, 0.1), SEED)
    return Splits(**read)


def _spaced(prompt: str, answer: str) -> str:
    """The answer as it follows the prompt: with one blank between them, unless either brings its own."""
    return answer if prompt[-1].isspace() or answer[0].isspace() else f" {answer}"


def _generate(item: Row, where: str) -> Row:
    prompt = text_field(item, "prompt", where)
    answers = list_field(item, "answers", where) if "answers" in item else [text_field(item, "answer", where)]
    if not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise TaskError(f"{where}: 'answers' must be non-empty strings, found {answers!r}; mend or remove the row")
    return {"prompt": prompt, "target": _spaced(prompt, answers[0]), "answers": answers}


def _with_contrast(row: Row, rows: list[Row], item: Row, where: str) -> Row:
    """The row with wrong answers: those it names, else the answers of other rows."""
    right = [_spaced(row["prompt"], answer) for answer in row["answers"]]
    if "wrong" in item:
        wrong = list_field(item, "wrong", where)
        if not all(isinstance(answer, str) and answer.strip() for answer in wrong):
            raise TaskError(f"{where}: 'wrong' must be non-empty strings, found {wrong!r}; mend or remove the row")
    else:
        taken = {answer.strip().lower() for answer in row["answers"]}
        others = sorted({other["answers"][0] for other in rows} - {a for a in row["answers"]})
        others = [other for other in others if other.strip().lower() not in taken]
        if not others:
            raise TaskError(f"{where}: no other row has another answer; name wrong ones under 'wrong'")
        wrong = random.Random(f"{SEED} {row['prompt']}").sample(others, min(N_WRONG, len(others)))
    return row | {"contrast": contrast(row["prompt"], right, [_spaced(row["prompt"], answer) for answer in wrong])}


def _choose(item: Row, where: str) -> Row:
    prompt, choices = text_field(item, "prompt", where), list_field(item, "choices", where)
    gold = item.get("gold")
    if not all(isinstance(choice, str) and choice.strip() for choice in choices) or len(set(choices)) < 2:
        raise TaskError(f"{where}: 'choices' must be two or more different texts, found {choices!r}; mend the row")
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise TaskError(f"{where}: 'gold' must be the index of one of {len(choices)} choices, found {gold!r}")
    following = [_spaced(prompt, choice) for choice in choices]
    wrong = list(dict.fromkeys(text for text in following if text != following[gold]))
    return {
        "prompt": prompt,
        "target": following[gold],
        "contrast": contrast(prompt, [following[gold]], wrong),
        "choices": following,
        "gold": gold,
    }


def _prefer(item: Row, where: str) -> Row:
    prompt = text_field(item, "prompt", where)
    pair = [_spaced(prompt, text_field(item, name, where)) for name in ("chosen", "rejected")]
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
