"""Writes are atomic, and malformed lines are named."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lofit.errors import LofitError, TaskError
from lofit.files import atomic_path, read_json, read_jsonl, write_jsonl, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as part:
        part.write_text("half")
        1 / 0  # noqa: B018
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with atomic_path(tmp_path / "folder") as part:
            part.mkdir()
            (part / name).touch()
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["two"]


def test_json_lines_round_trip_unicode_and_line_separators(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "naïve \u2028 line\nbreak"}, {"id": "b"}]
    write_jsonl(tmp_path / "x.jsonl", rows)
    assert read_jsonl(tmp_path / "x.jsonl") == rows


@pytest.mark.parametrize(("line", "what"), [("{", "not valid JSON"), ("[1]", "expected a JSON object, found list")])
def test_malformed_line_is_named(tmp_path: Path, line: str, what: str) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"a": 1}\n' + line + "\n")
    with pytest.raises(TaskError, match=f"x.jsonl:2: {what}"):
        read_jsonl(file)


KILLED = """
import os, signal, sys
from pathlib import Path
from lofit.files import atomic_path
with atomic_path(Path(sys.argv[1])) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    assert subprocess.run([sys.executable, "-c", KILLED, target], check=False).returncode == -signal.SIGKILL
    assert [p.name[:7] for p in tmp_path.iterdir()] == [".a.txt."]
    write_text(target, "whole")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("name", ["notes", "old-copy", "12345678", "abcdefgh"])
def test_a_hidden_folder_of_the_users_stays(name: str, tmp_path: Path) -> None:
    mine = tmp_path / f".a.txt.lofit-{name}"
    mine.mkdir()
    (mine / "a.txt").write_text("mine")
    write_text(tmp_path / "a.txt", "whole")
    assert (mine / "a.txt").read_text() == "mine"


def test_a_living_writer_of_the_same_file_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_path(target) as part:
        part.write_text("first")
        write_text(target, "second")
        assert part.read_text() == "first"
    assert target.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"a": "\\ud800"}', "a lone surrogate"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number too long"),
        (b"[" * 5000, "nesting too deep"),
        (b'{"a": "\xff"}', "not UTF-8 text"),
    ],
)
def test_a_line_that_could_not_be_written_again_is_named(tmp_path: Path, line: bytes, what: str) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(TaskError, match=f"x.jsonl:2: .*{what}"):
        read_jsonl(file)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="cannot be read"):
        read_jsonl(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "\ufeff{}", "[" * 5000])
def test_damaged_json_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(LofitError, match=r"x\.json is not valid JSON"):
        read_json(file)


WRITER = """
import sys
from pathlib import Path
from lofit.files import only_writer
with only_writer(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_of_a_folder_waits_for_the_first_however_that_ends(tmp_path: Path) -> None:
    def start(stdin: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WRITER, str(tmp_path / "node")]
        return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    first = start(subprocess.PIPE)
    assert first.stdout and first.stdout.readline() == "in\n"
    second = start(subprocess.DEVNULL)  # it ends at once if it does not wait
    assert second.stderr and "waiting for another process" in second.stderr.readline()
    assert second.poll() is None
    first.kill()
    assert second.stdout and second.stdout.readline() == "in\n"
    second.communicate(timeout=30)
    assert second.returncode == 0
    first.wait()
