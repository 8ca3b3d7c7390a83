"""Rows of tasks: JSON lines of own tasks, and a mirror of the hub's datasets, with damaged values, lines and files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from lofit.config import parse_config
from lofit.errors import LofitError
from lofit.files import read_json, read_jsonl, sha256_of
from lofit.nodes import prepare
from lofit.plan.table import RunTable
from tests.faults.configurations import NUMBERS, TEXTS, junk
from tests.faults.kinds import Kind, UnclearError

Row = dict[str, Any]


def _labelled(i: int) -> Row:
    return {"choices": {"text": [f"yes {i}", f"no {i}", "both"], "label": ["A", "B", "C"]}, "answerKey": "ABC"[i % 3]}


HUB: dict[str, tuple[str, tuple[str, ...], Callable[[int], Row]]] = {
    "aqua": ("deepmind/aqua_rat/raw", ("train", "test"), lambda i: {
        "question": f"{i} and {i}?", "options": [f"{c}){i}" for c in "ABCDE"], "correct": "ABCDE"[i % 5]}),
    "arc_challenge": ("allenai/ai2_arc/ARC-Challenge", ("train", "test"), lambda i: {
        "id": str(i), "question": f"What is {i}?", **_labelled(i)}),
    "boolq": ("google/boolq/default", ("train", "validation"), lambda i: {
        "question": f"is {i} even", "passage": f"{i} is a number.", "answer": i % 2 == 0}),
    "gsm8k": ("openai/gsm8k/main", ("train", "test"), lambda i: {
        "question": f"{i} and {i} ducks?", "answer": f"{i}+{i}=<<{i}+{i}={2 * i}>>{2 * i}\n#### {2 * i}"}),
    "openbookqa": ("allenai/openbookqa/main", ("train", "test"), lambda i: {
        "id": str(i), "question_stem": f"{i} is", **_labelled(i)}),
    "siqa": ("allenai/social_i_qa/default", ("train", "validation"), lambda i: {
        "context": f"{i} people met.", "question": "Why?", "answerA": "a", "answerB": "b", "answerC": "c",
        "label": "123"[i % 3]}),
    "svamp": ("ChilleD/SVAMP/default", ("train", "test"), lambda i: {
        "ID": str(i), "Body": f"There are {i} and {i} ducks", "Question": "How many?", "Answer": f"{2 * i}.0"}),
    "winogrande": ("allenai/winogrande/winogrande_xl", ("train", "validation"), lambda i: {
        "sentence": f"{i} told Bo that _ was late.", "option1": "Al", "option2": "Bo", "answer": "12"[i % 2]}),
    "mmlu": ("cais/mmlu/all", ("test",), lambda i: {
        "question": f"{i}?", "subject": "high_school_maths", "choices": ["a", "b", "c", "d"], "answer": i % 4}),
    "nq_open": ("google-research-datasets/nq_open/nq_open", ("validation",), lambda i: {
        "question": f"who is {i}", "answer": [f"number {i}", "x"]}),
    "triviaqa": ("mandarjoshi/trivia_qa/rc.nocontext", ("validation",), lambda i: {
        "question": f"Who is {i}", "answer": {"aliases": [f"number {i}"], "value": "x"}}),
    "wikitext": ("EleutherAI/wikitext_document_level/wikitext-2-raw-v1", ("test",), lambda i: {"page": f" = {i} = \n"}),
}  # fmt: skip
OWN: dict[str, Callable[[int], Row]] = {
    "sums": lambda i: {"prompt": f"{i}+{i}=", "answer": str(2 * i)},
    "named": lambda i: {"prompt": f"{i}+{i}=", "answers": [str(2 * i), "x"], "wrong": ["7", "8"]},
    "colours": lambda i: {"prompt": f"Grass {i} is", "choices": ["green", "red", "blue"], "gold": i % 3},
    "pairs": lambda i: {"prompt": f"Q: {i}?\nA:", "chosen": "Yes.", "rejected": "No."},
}
N = {"train": 22, "validation": 4, "test": 4}
HALF = '{"prompt": "\\ud800", "question": "\\udfff", "answer": "x"}'
LINES = [b"{", b"[]", b"null", b"3", b'"x"', b"{}", b"\xff\xfe", b"NaN", b"[" * 3000, b'{"a": ' + b"9" * 5000 + b"}"]
LINES += [b'{"a": 1', b"{'a': 1}", HALF.encode(), b"\x00", b"\xef\xbb\xbf{}", b'{"prompt": "a\tb"}', b"// x"]
FILES = [
    "cut",
    "empty",
    "blank lines",
    "bom",
    "crlf",
    "folder",
    "utf-16",
    "gone",
    "one row",
    "twice",
    "binary",
    "array",
]


@dataclass(frozen=True)
class Case:
    """Files of one task.

    Attributes:
        task: its name, of the package or of :data:`OWN`.
        files: split to contents; None where there is a folder instead.
        options: of the task.
    """

    task: str
    files: dict[str, bytes | None]
    options: dict[str, Any]


odd = st.one_of(junk, st.sampled_from(TEXTS), st.sampled_from(NUMBERS), st.sampled_from(["1e999999", "1e-999999", "_"]))


@st.composite
def cases(draw: Any) -> Case:
    """Good rows with damage to one or two values, a line, or a file."""
    task = draw(st.sampled_from([*HUB, *OWN, *OWN]))
    splits, make = HUB[task][1:] if task in HUB else (("train", "test"), OWN[task])
    if task in OWN and draw(st.booleans()):
        splits = (*splits, "validation")
    offset = {"train": 0, "validation": 30, "test": 40}
    rows = {split: [make(offset[split] + i) for i in range(N[split])] for split in splits}
    how = draw(st.sampled_from(["none", "value", "value", "value", "value", "line", "file"]))
    split = draw(st.sampled_from(splits))
    at = draw(st.integers(0, len(rows[split]) - 1))
    if how == "value":
        for _ in range(draw(st.integers(1, 2))):
            rows[split][at] = _damaged(draw, rows[split][at])
    files: dict[str, bytes | None] = {name: _lines(lines) for name, lines in rows.items()}
    body = files[split] or b""
    if how == "line":
        lines = body.split(b"\n")
        lines[at] = draw(st.sampled_from(LINES) | st.binary(max_size=5))
        files[split] = b"\n".join(lines)
    elif how == "file":
        files = _damaged_files(draw, files, split)
    amount = st.sampled_from([1, 3, 10**9]) | st.none()
    options = {name: draw(amount) for name in ("n_train", "n_test")} if draw(st.integers(0, 3)) == 0 else {}
    if draw(st.integers(0, 3)) == 0:
        options["overlap"] = draw(st.sampled_from(["refuse", "replace", "keep"]))
    return Case(task, files, options)


def _damaged(draw: Any, row: Row) -> Row:
    """The row with one value changed, at any depth."""
    row = copy.deepcopy(row)
    inner: Any = row
    while True:
        if not inner:
            return row
        key = draw(st.sampled_from(sorted(inner, key=str) if isinstance(inner, dict) else range(len(inner))))
        if isinstance(inner[key], dict | list) and draw(st.booleans()):
            inner = inner[key]
            continue
        match draw(st.sampled_from(["odd", "odd", "delete", "repeat"])):
            case "odd":
                inner[key] = draw(odd)
            case "delete":
                del inner[key]
            case "repeat" if isinstance(inner[key], list | str):
                inner[key] = inner[key] * 2
        return row


def _lines(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, skipkeys=True) + "\n" for row in rows).encode()


def _damaged_files(draw: Any, files: dict[str, bytes | None], split: str) -> dict[str, bytes | None]:
    body = files[split] or b""
    match draw(st.sampled_from(FILES)):
        case "cut":
            damaged: bytes | None = body[: draw(st.integers(0, len(body) - 2))]
        case "empty":
            damaged = b""
        case "blank lines":
            damaged = b"\n \n\n"
        case "bom":
            damaged = b"\xef\xbb\xbf" + body
        case "crlf":
            damaged = body.replace(b"\n", b"\r\n")
        case "folder":
            damaged = None
        case "utf-16":
            damaged = body.decode().encode("utf-16")
        case "gone":
            return {name: text for name, text in files.items() if name != split}
        case "one row":
            damaged = body.split(b"\n")[0]
        case "twice":
            damaged = body * 2
        case "array":
            damaged = b"[" + body.replace(b"\n", b",") + b"{}]"
        case _:
            damaged = draw(st.binary(max_size=50))
    return {**files, split: damaged}


def use(case: Case, folder: Path) -> None:
    """Prepare the task; what is prepared is whole, and of what is refused nothing is left."""
    place = folder / "mirror" / "hub" / HUB[case.task][0] if case.task in HUB else folder / "own"
    place.mkdir(parents=True)
    for split, body in case.files.items():
        if body is None:
            (place / f"{split}.jsonl").mkdir()
        else:
            (place / f"{split}.jsonl").write_bytes(body)
    entry: dict[str, Any] = {"options": case.options}
    if case.task in OWN:
        entry["path"] = str(place)
    watched = case.task in HUB and len(HUB[case.task][1]) == 1
    raw = {
        "models": ["smollm2-135m"],
        "tasks": {"listops": None} if watched else {case.task: entry},
        "retention": {case.task: entry} if watched else {},
        "methods": {"base": None},
        "data_mirror": str(folder / "mirror"),
        "resources": str(folder / "resources"),
        "results": str(folder / "results"),
    }
    try:
        table = RunTable(parse_config(raw))
        node = next(data for data in table.data.values() if data.task == case.task)
        prepare.run(table, node)
    except LofitError as error:
        if left := [str(path) for path in folder.glob("resources/tasks/**/*") if path.is_file() or "." in path.name]:
            raise UnclearError(f"left behind: {left}") from error
        repo = HUB[case.task][0].rpartition("/")[0] if case.task in HUB else case.task
        if not any(word in str(error) for word in (*case.files, case.task, repo)):
            raise UnclearError(f"names no file, split or task: {error}") from error
        raise
    made = table.folder(node)
    manifest = read_json(made / "manifest.json")
    if {path.name for path in made.iterdir()} != {"manifest.json", *(f"{split}.jsonl" for split in manifest["sha256"])}:
        raise UnclearError("not the files of the manifest")
    for split, digest in manifest["sha256"].items():
        rows = read_jsonl(made / f"{split}.jsonl")
        if sha256_of(made / f"{split}.jsonl") != digest or len(rows) != manifest["counts"][split]["kept"]:
            raise UnclearError(f"{split} is not what the manifest says")
        if any(len(json.dumps(row)) > 100_000 for row in rows):
            raise UnclearError(f"{split}: a row grew beyond measure")


KIND = Kind("rows", cases(), use)
