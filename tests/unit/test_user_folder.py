"""A folder that the user names is never emptied: whatever was there before a write is there afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lofit.errors import LofitError
from lofit.files import EXPORT_MARK, user_folder

EXAMPLES = 200
NAMES = ("out", "keep", "a", "deep", "link", "gone", ".out.settings", "home", "results", "export")
WRITTEN = {"config.json": "{}", "sub/weights": "w" * 100}


def write(target: Path, **options: object) -> None:
    with user_folder(target, **options) as part:  # type: ignore[arg-type]
        for name, text in WRITTEN.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_text(text)


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every file, link and folder below, with its bytes or where it leads."""
    found: dict[str, bytes | str] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        else:
            found[name] = "folder" if path.is_dir() else path.read_bytes()
    return found


@contextmanager
def mounted(place: Path) -> Iterator[bool]:
    """A file system in memory at ``place``, where this process may mount one."""
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], capture_output=True, check=False)
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", str(place)], check=True)


KINDS = ("file", "empty", "full", "export", "export", "export plus", "export altered", "link", "loop", "gone", "hidden")
"""What stands at a place before a write."""


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[tuple[str, str, str]], str, str]:
    """Places with what is there, the working folder, and the path that is asked for."""
    place = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
    there = draw(st.lists(st.tuples(place, st.sampled_from(KINDS), place), min_size=1, max_size=6))
    known = st.sampled_from([name for name, _, _ in there])
    asked = draw(known | st.lists(known | st.sampled_from((*NAMES, "..", ".", "~")), max_size=5).map("/".join))
    absolute = draw(st.booleans())
    return there, draw(st.sampled_from(("", "", "a", "keep/deep"))), f"{{world}}/{asked}" if absolute else asked


def build(world: Path, name: str, kind: str, leads: str) -> None:
    place = world / name
    with suppress(OSError):  # where something else is already
        place.parent.mkdir(parents=True, exist_ok=True)
        if kind == "file":
            place.write_text(f"the user's {name}")
        elif kind in ("link", "loop", "gone"):
            place.symlink_to({"link": world / leads, "loop": place, "gone": world / "nowhere"}[kind])
        elif kind == "hidden":
            (place.parent / f".{place.name}.12345678").mkdir()
            (place.parent / f".{place.name}.12345678" / "note").write_text("mine")
        elif kind.startswith("export"):
            with suppress(LofitError):
                write(place)
                if kind == "export plus":
                    (place / "sub" / "notes.txt").write_text("mine")
                elif kind == "export altered":
                    (place / "config.json").write_text("edited")
        else:
            place.mkdir()
            if kind == "full":
                (place / "notes.txt").write_text("mine")
                (place / EXPORT_MARK).write_text(json.dumps({"sha256": {"notes.txt": "0"}}))


def exports(world: Path) -> list[Path]:
    """Folders that hold an export and nothing else, as it was written."""
    names = {EXPORT_MARK, "sub", *WRITTEN}
    return [
        mark.parent
        for mark in world.rglob(EXPORT_MARK)
        if set(contents(mark.parent)) == names
        and all((mark.parent / name).read_text() == text for name, text in WRITTEN.items())
    ]


def test_nothing_is_ever_lost(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(worlds())
    @example(([("keep", "full", "a")], "", "keep"))
    @example(([("keep", "full", "a")], "keep", "."))
    @example(([("keep", "full", "a")], "keep", ".."))
    @example(([("keep", "full", "a")], "", "missing/../keep"))
    @example(([("link", "link", "keep"), ("keep", "full", "a")], "", "link"))
    @example(([("out", "export", "a")], "", "out"))
    @example(([("out", "export plus", "a")], "", "out"))
    @example(([("out", "hidden", "a")], "", "out"))
    @example(([("home/notes", "file", "a")], "", "~"))
    def check(case: tuple[list[tuple[str, str, str]], str, str]) -> None:
        there, cwd, asked = case
        world = tmp_path_factory.mktemp("world")
        for entry in there:
            build(world, *entry)
        here = world / cwd
        for needed in (here, world / "results" / "runs"):
            with suppress(OSError):
                needed.mkdir(parents=True, exist_ok=True)
        if not here.is_dir():
            here = world
        before, ours = contents(world), exports(world)
        with monkeypatch.context() as patch:
            patch.setenv("HOME", str(world / "home"))
            patch.chdir(here)
            target = Path(asked.format(world=world))
            place = Path(os.path.realpath(os.path.expanduser(target)))
            try:
                write(target, apart_from=(world / "results" / "runs", world / "resources"))
            except LofitError as error:
                assert "\n" not in str(error)
                seen["refused"] += 1
                assert contents(world) == before, "a refusal changes nothing"
            else:
                seen["replaced an export" if place in ours else "written"] += 1
                assert (place / "config.json").read_text() == "{}"
                assert here.exists() and place not in (here, *here.parents)
        after = contents(world)
        lost = [name for name, value in before.items() if after.get(name) != value]
        seen["losses"] += len(lost)
        assert not lost
        assert not [name for name in after if ".lofit-" in name or ".old-" in name], "nothing is left beside it"
        shutil.rmtree(world)

    check()
    print(dict(seen))
    assert seen["losses"] == 0
    assert min(seen[kind] for kind in ("refused", "written", "replaced an export")) >= 5, seen


@pytest.mark.parametrize("target", ["mnt", "mnt/new", "mnt/../mnt"])
def test_a_mounted_folder_is_written_into_or_refused(target: str, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    with mounted(tmp_path / "mnt") as possible:
        if not possible:
            pytest.skip("this process may not mount")
        if target == "mnt/new":
            write(tmp_path / target)
            assert (tmp_path / target / "config.json").is_file()
        else:
            with pytest.raises(LofitError, match="mount point"):
                write(tmp_path / target)
            (tmp_path / "mnt" / "notes").write_text("mine")
            with pytest.raises(LofitError, match="mount point"):
                write(tmp_path / target)
            assert (tmp_path / "mnt" / "notes").read_text() == "mine"


def test_a_mount_within_an_earlier_export_is_not_replaced(tmp_path: Path) -> None:
    write(tmp_path / "out")
    with mounted(tmp_path / "out" / "sub") as possible:
        if not possible:
            pytest.skip("this process may not mount")
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
