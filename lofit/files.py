"""Read and write the small files that nodes exchange; every write is atomic."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lofit.errors import ConfigError, LofitError, TaskError

_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\3\4": "zip",
    b"PAR1": "Parquet",
}
"""First bytes of files that hold rows in another format than JSON lines."""

EXPORT_MARK = "lofit-export.json"
"""File in an exported folder that lists the exported files and their checksums."""

_SCRATCH_MARK = ".lofit-scratch"
"""File in a scratch folder which shows that this project created it; its writer has locked it."""
_LOCK = ".lofit-lock"
"""File in the folder of a node that its writer has locked."""


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` to write to; it becomes ``target`` only if the block succeeds.

    Use it for the project's own outputs only: an existing file at ``target`` is replaced, and an existing folder is
    removed first. For a folder that the user names, use :func:`user_folder`. The caller creates a file or a folder at
    the yielded path. On any error nothing is left behind, and leftovers of a killed writer of the same target are
    removed. A system error without a file name, such as a full disk, is given the name of ``target``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _scratch_beside(target) as scratch:
        _remove_dead(target)
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


def private_folder(name: str) -> Path:
    """Return a folder in the system's folder of temporary files that this user alone can enter; it is made if missing.

    Raises:
        OSError: it belongs to another user, or others can enter it.
    """
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o777 != 0o700:
        raise OSError(f"{folder} is not a folder of this user alone")
    return folder


@contextlib.contextmanager
def user_folder(target: Path, outside: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield a path beside a folder that the user named; it becomes that folder only if the block succeeds.

    The caller creates a folder at the yielded path. No file of the user is lost: ``target`` must be missing, empty, or
    hold exactly what an earlier call wrote, byte for byte, according to its ``lofit-export.json``.

    Args:
        target: the folder that the user named; links and ``..`` are resolved first.
        outside: folders of the project that ``target`` must neither contain nor be inside of.

    Raises:
        LofitError: ``target`` holds anything else, cannot be written, or can never be replaced: the working folder,
            the home folder or a folder above them, a file, a mount point.
    """
    place = Path(os.path.realpath(expanded(target)))
    named = str(target) if target == place else f"{target} ({place})"
    with contextlib.ExitStack() as stack:
        try:
            _check_user_folder(place, named, outside)
            place.parent.mkdir(parents=True, exist_ok=True)
            scratch = stack.enter_context(_scratch_beside(place))
        except OSError as error:
            raise LofitError(f"{named} cannot be written ({error.strerror}); name another folder") from None
        part = scratch / place.name
        yield part
        files = [path for path in sorted(part.rglob("*")) if path.is_file() and path != part / EXPORT_MARK]
        written = {path.relative_to(part).as_posix(): sha256_of(path) for path in files}
        write_json(part / EXPORT_MARK, {"sha256": written})
        try:
            _move_into_place(part, place, named)
        except OSError as error:
            raise LofitError(f"{named} cannot be replaced ({error.strerror}); name another folder") from None


def _check_user_folder(place: Path, named: str, outside: Iterable[Path]) -> None:
    home = Path(os.path.realpath(os.path.expanduser("~")))
    for kept, what in ((Path.cwd(), "the working folder"), (home, "the home folder")):
        if place in (kept, *kept.parents):
            raise LofitError(f"{named} is {what}, or holds it; name a new folder")
    for kept in map(Path, map(os.path.realpath, outside)):
        if place in (kept, *kept.parents) or kept in place.parents:
            raise LofitError(f"{named} holds, or is in, {kept}, where the workflow writes; name another folder")
    if os.path.lexists(place) and (place.is_symlink() or not place.is_dir()):
        raise LofitError(f"{named} exists and is not a folder; name a new folder")
    if place.is_dir() and os.path.ismount(place):
        raise LofitError(f"{named} is a mount point, which cannot be replaced; name a folder in it")
    _refuse_foreign(place, named)


def _refuse_foreign(folder: Path, named: str) -> None:
    """Raise LofitError if a folder holds anything but what :func:`user_folder` wrote."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        written = dict(json.loads((folder / EXPORT_MARK).read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise LofitError(f"{named} is not empty, and no earlier export; name a new folder") from None
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            ours = any(other.startswith(f"{name}/") for other in written)
        elif path.is_file() and not path.is_symlink():
            ours = name == EXPORT_MARK or written.get(name) == sha256_of(path)
        else:
            ours = False
        if not ours:
            raise LofitError(
                f"{named} holds {name}, which no export wrote, or which was changed since; name a new folder"
            )


def _move_into_place(part: Path, place: Path, named: str) -> None:
    """Move a finished folder to ``place``, where there is an earlier export, an empty folder or nothing."""
    if not place.is_dir() or not any(place.iterdir()):
        os.rename(part, place)  # the system refuses this if the folder has been filled in the meantime
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.old-", dir=place.parent))
    old = aside / place.name
    os.rename(place, old)
    try:
        _refuse_foreign(old, named)  # checked again, now that nobody can add files under the old name
        os.rename(part, place)
    except BaseException:
        os.rename(old, place)
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 checksum of a file as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def expanded(path: Path) -> Path:
    """Expand ``~`` in a path that the user wrote.

    Raises:
        ConfigError: the path names an unknown user's home folder, holds a zero byte or is not UTF-8; or the working
            folder no longer exists.
    """
    named = os.path.expanduser(path)
    if "\0" in named:
        raise ConfigError(f"{named}: a path cannot hold a zero byte; correct it")
    if named.startswith("~"):
        raise ConfigError(f"{named}: there is no such user, so no home folder; write the whole path")
    try:
        named.encode()
        os.getcwd()
    except UnicodeEncodeError:
        raise ConfigError(f"{named}: a name that is not UTF-8; rename the folder") from None
    except OSError:
        raise ConfigError(f"{named}: the working folder is not there any more; change to another") from None
    return Path(named)


def shipped(name: str) -> Path:
    """Return the path of a file or folder that comes with the package without being a module of it.

    In a checkout these are at its top, such as ``Snakefile``; a wheel has them in ``lofit/shipped``.
    """
    package = Path(__file__).parent
    installed = package / "shipped"
    return (installed if installed.is_dir() else package.parent) / name


def is_being_written(folder: Path) -> bool:
    """Return whether another process is the :func:`only_writer` of a folder; False if the file system has no locks."""
    try:
        held = os.open(folder / _LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(held)
    return False


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, which is created if it is missing.

    Waits until no other process holds it: a job that a killed Snakemake left on a cluster must not write after the
    job that replaced it. The lock is on a file, since NFS does not tell other machines of a lock on a folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / _LOCK
    while True:
        held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{folder}: waiting for another process that writes here", file=sys.stderr, flush=True)
                fcntl.flock(held, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(held), lock.stat()):
                break
        os.close(held)  # the file of a writer that has ended meanwhile, which removed it
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(held)


@contextlib.contextmanager
def _scratch_beside(target: Path) -> Iterator[Path]:
    """Yield a scratch folder beside ``target``, with a lock that ends with this process, however it ends."""
    while True:
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.lofit-", dir=target.parent))
        try:
            held = os.open(scratch / _SCRATCH_MARK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except (FileNotFoundError, FileExistsError):
            continue  # another writer took it for a leftover
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        if (scratch / _SCRATCH_MARK).exists():
            break
        os.close(held)
    try:
        yield scratch
    finally:
        os.close(held)  # first, since NFS keeps files that are open
        shutil.rmtree(scratch, ignore_errors=True)


def is_scratch(path: Path) -> bool:
    """Whether a path is a scratch folder that this project created."""
    named = re.fullmatch(r"\..+\.lofit-[a-z0-9_]{8}", path.name, re.DOTALL)
    return bool(named) and path.is_dir() and ((path / _SCRATCH_MARK).is_file() or not any(path.iterdir()))


def _remove_dead(target: Path) -> None:
    """Remove the scratch folders that killed writers of the same target left: those that no process has locked."""
    for scratch in target.parent.glob(f".{glob.escape(target.name)}.lofit-*"):
        if scratch.is_symlink() or not is_scratch(scratch):
            continue
        try:
            handle = os.open(scratch / _SCRATCH_MARK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError:
            continue  # gone by now
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its writer is still running, or the file system has no locks
        finally:
            os.close(handle)
        shutil.rmtree(scratch, ignore_errors=True)


def reserve(path: Path) -> None:
    """Allocate the disk space of a sparse file now: on a full disk, writing to its memory map kills the process.

    Raises:
        OSError: the disk is full.
    """
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, os.fstat(file.fileno()).st_size))


def short_hash(identity: Any) -> str:
    """Return the first 8 hexadecimal digits of the SHA-256 of the canonical JSON of ``identity``."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:8]


def write_text(target: Path, text: str) -> None:
    """Write ``text`` as UTF-8."""
    with atomic_path(target) as part:
        part.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys."""
    write_text(target, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def require(path: Path, command: str) -> Path:
    """Return ``path`` if it exists.

    Raises:
        LofitError: it does not exist; the message names the ``lofit`` command that creates it.
    """
    if not path.exists():
        raise LofitError(f"{path} is not there; run `lofit {command}` first, or the whole workflow with snakemake")
    return path


def read_json(path: Path, refusal: type[LofitError] = LofitError) -> Any:
    """Read one JSON document.

    Raises:
        LofitError: the file is not valid JSON; the error is of class ``refusal`` and names the file.
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
        TaskError: the file cannot be read, or a line is not a JSON object or holds a lone surrogate; the message names
            file and line.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")  # some editors begin a file with a byte-order mark
    except OSError as error:
        raise TaskError(f"{path}: cannot be read ({error.strerror}); give a file of JSON lines") from None
    except UnicodeDecodeError as error:
        for start, kind in _PACKED.items():
            if data.startswith(start):
                raise TaskError(f"{path}: a {kind} file; unpack it and give the JSON lines themselves") from None
        line = error.object[: error.start].count(b"\n") + 1
        raise TaskError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None
    return [_row(line, f"{path}:{number}") for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _row(line: str, where: str) -> dict[str, Any]:
    """Parse one JSON object; a lone surrogate, which JSON can escape, is refused since UTF-8 cannot encode it."""
    try:
        row = json.loads(line)
        if "\\u" in line:
            json.dumps(row, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise TaskError(f"{where}: not valid JSON ({error.msg}); fix or remove the line") from None
    except UnicodeEncodeError:
        raise TaskError(f"{where}: a lone surrogate character; fix or remove the line") from None
    except (ValueError, RecursionError):
        raise TaskError(f"{where}: a number too long or nesting too deep; fix or remove the line") from None
    if not isinstance(row, dict):
        raise TaskError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row
