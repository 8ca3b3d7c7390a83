"""Writes are atomic, and malformed lines are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from lofit.errors import TaskError
from lofit.files import atomic_path, read_jsonl, write_jsonl


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
