"""Reading and writing of the small files that nodes exchange; every write is atomic."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lofit.errors import LofitError, TaskError


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` to write to; it becomes ``target`` only if the block succeeds.

    The caller creates a file or a folder at the yielded path. An existing file at ``target`` is
    replaced; an existing folder at ``target`` is removed first. On any error nothing is left behind, and what a
    killed writer of the same target left behind is removed. An error of the system that names no file, such as a
    full disk, names this one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}."
    with _held_scratch(target.parent, prefix) as scratch:
        for other in target.parent.glob(f"{glob.escape(prefix)}*"):
            _remove_if_dead(other)
        part = scratch / target.name
        try:
            yield part
        except OSError as error:
            if error.errno and error.filename is None:
                error.filename = str(target)
            raise
        if part.is_dir() and target.is_dir():
            shutil.rmtree(target)
        os.replace(part, target)


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Within this, no other process is in it for the same folder, which is made if it is not there.

    Waits for one that is: a job that a killed Snakemake left on a cluster must not write after the next one's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{folder}: waiting for another process that writes here", file=sys.stderr, flush=True)
                fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


@contextlib.contextmanager
def _held_scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """A scratch folder with a lock that ends with this process, however it ends."""
    while True:
        scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        held = os.open(scratch, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        if scratch.exists():
            break
        os.close(held)  # another writer took it for a dead one's before it was locked
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(held)


def _remove_if_dead(scratch: Path) -> None:
    """Remove a scratch folder that no process holds."""
    try:
        handle = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # gone by now, or not a scratch folder
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(scratch, ignore_errors=True)
    except OSError:
        pass  # its writer lives, or locks are not known here
    finally:
        os.close(handle)


def reserve(path: Path) -> None:
    """Give a sparse file its room on disk now: writing to one that is mapped kills the process where there is none.

    Raises:
        OSError: there is no room.
    """
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, os.fstat(file.fileno()).st_size))


def write_text(target: Path, text: str) -> None:
    """Write ``text`` as UTF-8."""
    with atomic_path(target) as part:
        part.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys."""
    write_text(target, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def need(path: Path, command: str) -> Path:
    """The path itself, if it is there.

    Raises:
        LofitError: it is not; the message names the ``lofit`` command that makes it.
    """
    if not path.exists():
        raise LofitError(f"{path} is not there; run `lofit {command}` first, or the whole workflow with snakemake")
    return path


def read_json(path: Path, refusal: type[LofitError] = LofitError) -> Any:
    """Read one JSON document.

    Raises:
        LofitError: of class ``refusal``: it is damaged; the message names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise refusal(f"{path} is not valid JSON ({error}); remove it and run what writes it again") from None


def write_jsonl(target: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object per line."""
    write_text(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines.

    Raises:
        TaskError: the file cannot be read, or a line is not a JSON object of whole characters; the message names file
            and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TaskError(f"{path}: cannot be read ({error.strerror}); give a file of JSON lines") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise TaskError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None
    return [_row(line, f"{path}:{number}") for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _row(line: str, where: str) -> dict[str, Any]:
    """One JSON object; half a character, which JSON can escape, could not be written again."""
    try:
        row = json.loads(line)
        if "\\u" in line:
            json.dumps(row, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise TaskError(f"{where}: not valid JSON ({error.msg}); mend or remove the line") from None
    except UnicodeEncodeError:
        raise TaskError(f"{where}: half a character (a lone surrogate); mend or remove the line") from None
    except (ValueError, RecursionError):
        raise TaskError(f"{where}: a number too long or nesting too deep; mend or remove the line") from None
    if not isinstance(row, dict):
        raise TaskError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row
