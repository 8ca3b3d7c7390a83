"""Folders that a user names for an export: whatever was there before is there afterwards, byte for byte."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import strategies as st

from lofit.errors import LofitError
from lofit.files import EXPORT_MARK, user_folder
from tests.faults.kinds import Kind, UnclearError

NAMES = ("out", "keep", "a", "deep", "link", "gone", ".out.settings", "home", "results", "export")
WRITTEN = {"config.json": "{}", "sub/weights": "w" * 100}
KINDS = ("file", "empty", "full", "export", "export", "export plus", "export altered", "link", "loop", "gone", "hidden")
"""What stands at a place before a write."""


@dataclass(frozen=True)
class Case:
    """Places with what is there and where a link among them leads, the working folder, and the path asked for."""

    there: tuple[tuple[str, str, str], ...]
    cwd: str
    asked: str


@st.composite
def cases(draw: Any) -> Case:
    """Paths to what is there, to what is not, and up and down among both."""
    place = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
    there = draw(st.lists(st.tuples(place, st.sampled_from(KINDS), place), min_size=1, max_size=6))
    known = st.sampled_from([name for name, _, _ in there])
    steps = st.lists(known | st.sampled_from((*NAMES, "..", ".", "~")), max_size=5).map("/".join)
    asked = draw(known | steps)
    return Case(
        tuple(there),
        draw(st.sampled_from(("", "", "a", "keep/deep"))),
        f"{{world}}/{asked}" if draw(st.booleans()) else asked,
    )


def write(target: Path, **options: Any) -> None:
    """What stands for an export."""
    with user_folder(target, **options) as part:
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


def _build(world: Path, name: str, kind: str, leads: str) -> None:
    place = world / name
    with suppress(OSError):  # where something else is already
        place.parent.mkdir(parents=True, exist_ok=True)
        if kind == "file":
            place.write_text(f"the user's {name}")
        elif kind in ("link", "loop", "gone"):
            place.symlink_to({"link": world / leads, "loop": place, "gone": world / "nowhere"}[kind])
        elif kind == "hidden":
            for suffix in ("12345678", "lofit-notes", "lofit-12345678", "old-12345678"):
                beside = place.parent / f".{place.name}.{suffix}"
                beside.mkdir()
                (beside / "note").write_text("mine")
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


def use(case: Case, folder: Path) -> None:
    """Write to the folder asked for. An earlier export holds the same as the new one, so nothing at all may differ."""
    world = folder / "world"
    world.mkdir()
    for entry in case.there:
        _build(world, *entry)
    here = world / case.cwd
    for needed in (here, world / "results" / "runs"):
        with suppress(OSError):
            needed.mkdir(parents=True, exist_ok=True)
    os.chdir(here if here.is_dir() else world)
    before = contents(world)
    with mock.patch.dict(os.environ, HOME=str(world / "home")):
        target = Path(case.asked.format(world=world))
        place = Path(os.path.realpath(os.path.expanduser(target)))
        try:
            write(target, outside=(world / "results" / "runs", world / "resources"))
        except LofitError as error:
            if contents(world) != before:
                raise UnclearError("a refusal that changes something") from error
            raise
    after = contents(world)
    lost = [name for name, value in before.items() if after.get(name) != value]
    left = [name for name in after.keys() - before if ".lofit-" in name or ".old-" in name]
    assert not lost, f"lost: {lost}"
    assert not left, f"left behind: {left}"
    assert set(contents(place)) == {"sub", EXPORT_MARK, *WRITTEN}
    assert place not in (Path.cwd(), *Path.cwd().parents)


KIND = Kind("folders", cases(), use)
