"""Data files of custom tasks: rows with named columns, and how columns become the fields of a task."""

from __future__ import annotations

import csv
import json
import string
from functools import lru_cache
from pathlib import Path

from pydantic import Field, StrictInt, model_validator

from lofit.errors import TaskError, brief
from lofit.files import read_jsonl
from lofit.spec.base import Form, Line, UserPath
from lofit.tasks.task import Row

SUFFIXES = (".csv", ".tsv", ".parquet", ".json", ".jsonl")
"""Of the data files that can be read."""


BESIDE_ROWS = {"summary", "licence", "max_gen_toks", "until"}
"""Keys of a description that do not change the rows."""


class Description(Form):
    """Where the rows of a custom task are, and what their columns mean; paths are relative to the folder of the task.

    Without ``answer`` and ``label``, columns are the fields of the task themselves.
    """

    train: UserPath = Field(default=Path("train.jsonl"), description="CSV, TSV, Parquet, JSON or JSON lines")
    validation: UserPath | None = Field(
        default=None, description="null: validation.jsonl of a folder, or a tenth of the prompts"
    )
    test: UserPath | None = Field(
        default=None, description="null: test.jsonl of a folder, or `test_share` of the prompts"
    )
    test_share: float = Field(
        default=0.2, gt=0, lt=1, description="of the prompts, where there is no file of test rows"
    )
    split_seed: StrictInt = Field(default=0, ge=0, description="of the draw of test rows")
    prompt: str | None = Field(default=None, description="with columns in braces, such as 'Review: {text}'")
    answer: str | None = Field(default=None, description="column with the text that is to be generated")
    label: str | None = Field(default=None, description="column with the right choice")
    choices: list[str] | None = Field(
        default=None, min_length=2, description="what to choose from; null: the labels of the training rows, sorted"
    )
    cluster: str | None = Field(default=None, description="column that dependent rows share")
    stratum: str | None = Field(default=None, description="column with the kind of row")
    summary: Line = Field(default="custom task", description="what it is, for the record")
    licence: Line = Field(default="not stated", description="of the data, for the record")
    max_gen_toks: StrictInt = Field(default=32, ge=1, description="most tokens of a generated answer")
    until: list[str] = Field(default=["\n"], description="strings at which a generated answer ends")

    @model_validator(mode="after")
    def _columns(self) -> Description:
        if self.answer and self.label:
            raise ValueError("answer and label are given; an answer is generated, a label is chosen: remove one")
        if bool(self.prompt) != bool(self.answer or self.label):
            raise ValueError("prompt belongs to an answer or a label; give both, or neither")
        if self.choices and not self.label:
            raise ValueError("choices belong to a label; name its column, or remove them")
        if self.prompt:
            try:
                parts = list(string.Formatter().parse(self.prompt))
            except ValueError as error:
                raise ValueError(f"prompt: {error}; double braces that are part of the text") from None
            if any(form or conversion for _, name, form, conversion in parts if name is not None):
                raise ValueError("prompt: a column is named in braces, without ! or :; double other braces")
            if not any(name for _, name, _, _ in parts):
                raise ValueError("prompt: names no column in braces, so all rows would be the same")
        return self

    def filled(self, row: Row, place: str) -> str:
        """Return the prompt with the texts of a row; whatever stands in braces is the name of a column, as it is."""
        parts = string.Formatter().parse(self.prompt or "")
        return "".join(text + ("" if name is None else _text(row, name, place)) for text, name, _, _ in parts)


def read_rows(file: Path) -> list[Row]:
    """Read the rows of a data file; its kind follows from its suffix, and without a known one it is JSON lines.

    Raises:
        TaskError: the file cannot be read, or a row does not have the columns of the header.
    """
    try:
        state = file.stat()
    except OSError:
        return read_jsonl(file)  # which says what is wrong
    return _read(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)  # a task is read again whenever it is asked for
def _read(file: Path, modified: int, size: int) -> list[Row]:
    suffix = file.suffix.lower()
    try:
        if suffix in (".csv", ".tsv"):
            return _delimited(file, "," if suffix == ".csv" else "\t")
        if suffix == ".parquet":
            from pyarrow.parquet import read_table  # the command line imports this module

            rows: list[Row] = read_table(file).to_pylist()
            return rows
        if suffix == ".json":
            found = json.loads(file.read_text(encoding="utf-8-sig"))
            json.dumps(found, ensure_ascii=False).encode()  # half a character cannot be written
            if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
                raise TaskError(f"{file}: not a list of JSON objects; give one, or JSON lines in a .jsonl file")
            return found
    except (OSError, csv.Error, ValueError, RecursionError) as error:  # pyarrow's are such too
        raise TaskError(f"{file}: cannot be read as {suffix[1:]} ({brief(error)}); correct it") from None
    return read_jsonl(file)


def _delimited(file: Path, delimiter: str) -> list[Row]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
        header = list(reader.fieldnames or [])
        if len(set(header)) < len(header):
            raise TaskError(f"{file}: two columns of its header have the same name; rename one")
        rows = []
        for number, row in enumerate(reader, start=1):
            if None in row or None in row.values():
                raise TaskError(f"{file} row {number}: not the {len(header)} columns of the header; correct the row")
            if delimiter == "\t" and any("\t" in value for value in row.values()):
                raise TaskError(
                    f"{file} row {number}: a quotation mark joins cells; double it, and put its cell in quotation marks"
                )
            rows.append(dict(row))
        return rows


def to_fields(rows: list[Row], about: Description, places: list[str], choices: list[str]) -> list[Row]:
    """Return rows with the fields of a task (``prompt`` and ``answer``, or ``choices`` and ``gold``) from columns.

    Args:
        rows: rows with the columns that ``about`` names.
        about: what the columns mean.
        places: where each row is, for messages.
        choices: what to choose from, if there is a label.

    Raises:
        TaskError: a row lacks a column, or its label is not one of the choices.
    """
    named = {name: column for name in ("cluster", "stratum", "answer") if (column := getattr(about, name))}
    made = []
    for row, place in zip(rows, places, strict=True):
        item: Row = {name: _text(row, column, place) for name, column in named.items()}
        if about.prompt:
            item |= {"prompt": about.filled(row, place)}
            item |= {"wrong": row["wrong"]} if isinstance(row.get("wrong"), list) else {}
        if about.label:
            if (label := _text(row, about.label, place)) not in choices:
                raise TaskError(f"{place}: label {label!r} is not among the choices {', '.join(choices)}; correct one")
            item |= {"choices": choices, "gold": choices.index(label)}
        made.append(item if about.prompt else row | item)
    return made


def labels(rows: list[Row], about: Description, places: list[str]) -> list[str]:
    """Return what is chosen from: the given choices, or the labels of the training rows in order."""
    if about.choices or not about.label:
        return about.choices or []
    return sorted({_text(row, about.label, place) for row, place in zip(rows, places, strict=True)})


def _text(row: Row, column: str, place: str) -> str:
    if column not in row:
        raise TaskError(f"{place}: no column '{column}'; it has: {', '.join(map(str, row))}")
    value = row[column]
    if value is None or value != value or not str(value).strip():  # NaN differs from itself
        raise TaskError(f"{place}: column '{column}' is empty; fill it, or remove the row")
    return str(value)
