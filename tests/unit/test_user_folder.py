"""A folder that the user names is never emptied; `python -m tests.faults.fuzz --kind folders` tries many more."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lofit.errors import LofitError
from lofit.files import user_folder
from tests.faults.folders import contents, write


@contextmanager
def mounted(place: Path) -> Iterator[None]:
    """A file system in memory at ``place``."""
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this process may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("target", ["keep", "keep/.", "new/../keep", "link", "keep/notes.txt", ".", "..", "", "/", "~"])
def test_what_is_there_is_refused_in_one_line(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to("keep")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here" if target in (".", "..", "") else tmp_path)
    before = contents(tmp_path)
    with pytest.raises(LofitError) as caught:
        write(Path(target))
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before


def test_a_missing_an_empty_and_a_written_folder_are_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("led/to")
    for target in ("new/deep", "empty", "empty", "link", "link", "empty/../empty"):
        write(tmp_path / target)
    assert (tmp_path / "led" / "to" / "config.json").is_file() and (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "led", "link", "new"]


@pytest.mark.parametrize("name", [".keep.lofit-notes", ".keep.lofit-abcdefgh", ".keep.old-12345678"])
def test_a_hidden_folder_beside_it_stays(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    for _ in range(2):
        write(tmp_path / "keep")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "keep"])


@pytest.mark.parametrize("change", ["added", "altered", "added folder", "link", "mark"])
def test_an_earlier_export_that_the_user_changed_stays(change: str, tmp_path: Path) -> None:
    write(tmp_path / "out")
    match change:
        case "added":
            (tmp_path / "out" / "sub" / "notes.txt").write_text("mine")
        case "altered":
            (tmp_path / "out" / "config.json").write_text("{} ")
        case "added folder":
            (tmp_path / "out" / "mine").mkdir()
        case "link":
            os.symlink("config.json", tmp_path / "out" / "mine")
        case "mark":
            (tmp_path / "out" / "lofit-export.json").write_text("[]")
    before = contents(tmp_path)
    with pytest.raises(LofitError, match="name a new folder"):
        write(tmp_path / "out")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("target", ["mnt", "mnt/new/../../mnt"])
def test_a_mount_point_is_refused_and_a_folder_in_it_written(target: str, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    with mounted(tmp_path / "mnt"):
        write(tmp_path / "mnt" / "new")
        before = contents(tmp_path)
        with pytest.raises(LofitError, match="mount point"):
            write(tmp_path / target)
        assert contents(tmp_path) == before


def test_a_mount_within_an_earlier_export_is_not_replaced(tmp_path: Path) -> None:
    write(tmp_path / "out")
    with mounted(tmp_path / "out" / "sub"):
        (tmp_path / "out" / "sub" / "notes").write_text("mine")
        with pytest.raises(LofitError, match="sub/notes"):
            write(tmp_path / "out")
        assert (tmp_path / "out" / "sub" / "notes").read_text() == "mine"


def test_what_is_added_while_an_export_is_built_stays(tmp_path: Path) -> None:
    write(tmp_path / "out")
    with pytest.raises(LofitError, match="holds notes"), user_folder(tmp_path / "out") as part:
        part.mkdir()
        (tmp_path / "out" / "notes.txt").write_text("mine")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(LofitError, match="cannot be replaced"), user_folder(tmp_path / "new") as part:
        part.mkdir()
        (tmp_path / "new").write_text("a file by now")
    assert (tmp_path / "new").read_text() == "a file by now"


@pytest.mark.parametrize("name", ["x" * 300, "file/below"])
def test_what_the_system_refuses_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(LofitError, match="cannot be written"):
        write(tmp_path / name)
    assert contents(tmp_path) == {"file": b"mine"}
