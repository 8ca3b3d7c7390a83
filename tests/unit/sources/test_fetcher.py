from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from lofit.errors import SourceError
from lofit.sources.fetcher import Fetcher
from lofit.sources.source import HubDataset, PinnedFile, WheelFile

ROWS = HubDataset(repo="owner/data", revision="main", config="main", split="test")


def pinned(body: bytes, url: str = "https://example.org/data/f%20g.csv") -> PinnedFile:
    return PinnedFile(url=url, sha256=hashlib.sha256(body).hexdigest(), mirror="set/f.csv")


def test_file_from_the_network(server: Any, tmp_path: Path) -> None:
    server.files["/data/f%20g.csv"] = b"body"
    fetcher = Fetcher(tmp_path / "cache", None)
    spec = pinned(b"body", server.url("/data/f%20g.csv"))
    path = fetcher.file(spec)
    assert path.read_bytes() == b"body"
    assert path.name == "f g.csv"
    assert fetcher.provenance == [{"kind": "file", "origin": spec.url, "sha256": spec.sha256, "via": "network"}]


def test_file_from_the_mirror(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "f.csv").write_bytes(b"body")
    fetcher = Fetcher(tmp_path / "cache", tmp_path)
    assert fetcher.file(pinned(b"body")) == tmp_path / "set" / "f.csv"
    assert fetcher.provenance[0]["via"] == "mirror"
    assert str(tmp_path) not in json.dumps(fetcher.provenance)


def test_mirror_that_lacks_the_file_is_no_reason_to_use_the_network(server: Any, tmp_path: Path) -> None:
    server.files["/f"] = b"body"
    fetcher = Fetcher(tmp_path / "cache", tmp_path)
    with pytest.raises(SourceError, match="the data mirror lacks") as error:
        fetcher.file(pinned(b"body", server.url("/f")))
    assert str(tmp_path / "set" / "f.csv") in str(error.value)
    with pytest.raises(SourceError) as error:
        fetcher.hub_rows(ROWS)
    assert str(tmp_path / "hub/owner/data/main/test.jsonl") in str(error.value)
    assert server.requests == []
    assert fetcher.provenance == []


def test_altered_file_in_the_mirror(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "f.csv").write_bytes(b"altered")
    spec = pinned(b"body")
    with pytest.raises(SourceError, match="altered") as error:
        Fetcher(tmp_path / "cache", tmp_path).file(spec)
    for part in (spec.sha256, hashlib.sha256(b"altered").hexdigest(), str(tmp_path / "set" / "f.csv")):
        assert part in str(error.value)


def test_hub_rows_from_the_mirror(tmp_path: Path) -> None:
    file = tmp_path / "hub/owner/data/main/test.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text('{"a": 1}\n{"a": 2}\n')
    fetcher = Fetcher(tmp_path / "cache", tmp_path)
    assert fetcher.hub_rows(ROWS) == [{"a": 1}, {"a": 2}]
    record = fetcher.provenance[0]
    assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert "revision" not in record
    file.write_text("{broken\n")
    with pytest.raises(SourceError, match=r"test\.jsonl:1: not valid JSON"):
        fetcher.hub_rows(ROWS)


def test_wheel_member_is_recorded(wheel: Any, tmp_path: Path) -> None:
    fetcher = Fetcher(tmp_path / "cache", None)
    member = "tinydata/rows.jsonl"
    path = fetcher.wheel_member(WheelFile(requirement=wheel.requirement, sha256=wheel.sha256, member=member))
    assert path.read_bytes() == wheel.members[member]
    assert fetcher.provenance == [
        {"kind": "wheel", "origin": "tinydata==1.0", "member": member, "sha256": wheel.sha256, "via": "pip"}
    ]
