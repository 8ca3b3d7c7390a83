from __future__ import annotations

import hashlib
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from lofit.errors import SourceError
from lofit.sources.download import download

BODY = bytes(range(256)) * 5000  # a bit more than one chunk


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def left(folder: Path) -> list[str]:
    """Files in ``folder`` besides locks."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.fixture
def quick(server: Any) -> dict[str, float]:
    server.files["/f.bin"] = BODY
    return {"backoff": 0.01, "timeout": 10}


def test_download_and_reuse(server: Any, quick: dict[str, float], tmp_path: Path) -> None:
    target = tmp_path / "a" / "f.bin"
    for _ in range(2):
        assert download(server.url("/f.bin"), sha(BODY), target, **quick) == target
    assert target.read_bytes() == BODY
    assert left(target.parent) == ["f.bin"]
    assert len(server.requests) == 1


def test_a_damaged_target_is_fetched_again(server: Any, quick: dict[str, float], tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(b"damaged")
    assert download(server.url("/f.bin"), sha(BODY), tmp_path / "f.bin", **quick).read_bytes() == BODY


def test_continues_after_a_cut_connection(server: Any, quick: dict[str, float], tmp_path: Path) -> None:
    server.cut_after = [1000]
    assert download(server.url("/f.bin"), sha(BODY), tmp_path / "f.bin", **quick).read_bytes() == BODY
    assert [asked for _, asked in server.requests] == [None, "bytes=1000-"]


def test_continues_in_a_later_call(server: Any, quick: dict[str, float], tmp_path: Path) -> None:
    server.cut_after = [1000]
    with pytest.raises(SourceError, match=r"1000 of 1280000 bytes; 1 attempts"):
        download(server.url("/f.bin"), sha(BODY), tmp_path / "f.bin", attempts=1, **quick)
    assert left(tmp_path) == [".f.bin.part"]
    assert download(server.url("/f.bin"), sha(BODY), tmp_path / "f.bin", **quick).read_bytes() == BODY
    assert server.requests[-1][1] == "bytes=1000-"
    assert left(tmp_path) == ["f.bin"]


def test_starts_over_where_range_is_ignored(server: Any, quick: dict[str, float], tmp_path: Path) -> None:
    server.cut_after, server.honour_range = [1000], False
    assert download(server.url("/f.bin"), sha(BODY), tmp_path / "f.bin", **quick).read_bytes() == BODY
    assert len(server.requests) == 2


@pytest.mark.parametrize("stale", [b"x" * 10, b"x" * len(BODY), BODY])
def test_a_stale_part_does_no_harm(server: Any, quick: dict[str, float], tmp_path: Path, stale: bytes) -> None:
    (tmp_path / ".f.bin.part").write_bytes(stale)
    assert download(server.url("/f.bin"), sha(BODY), tmp_path / "f.bin", **quick).read_bytes() == BODY
    assert left(tmp_path) == ["f.bin"]


def test_wrong_checksum_names_both_and_leaves_nothing(server: Any, quick: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        download(server.url("/f.bin"), "0" * 64, tmp_path / "f.bin", **quick)
    for part in (server.url("/f.bin"), "0" * 64, sha(BODY)):
        assert part in str(error.value)
    assert left(tmp_path) == []


def test_transient_answers_are_tried_again(server: Any, quick: dict[str, float], tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert download(server.url("/f.bin"), sha(BODY), tmp_path / "f.bin", **quick).read_bytes() == BODY
    assert len(server.requests) == 3


def test_attempts_are_bounded(server: Any, quick: dict[str, float], tmp_path: Path) -> None:
    server.statuses = [503] * 9
    with pytest.raises(SourceError, match=r"HTTP 503.*3 attempts.*data_mirror"):
        download(server.url("/f.bin"), sha(BODY), tmp_path / "f.bin", attempts=3, **quick)
    assert len(server.requests) == 3


def test_not_found_is_final(server: Any, quick: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"/none answers HTTP 404 Not Found; check the address"):
        download(server.url("/none"), sha(BODY), tmp_path / "f.bin", **quick)
    assert len(server.requests) == 1


def test_unreachable_says_what_and_how_to_mend_it(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/f"
        with pytest.raises(SourceError) as error:
            download(url, "0" * 64, tmp_path / "f", attempts=2, backoff=0.01, timeout=10)
    assert f"cannot reach {url}" in str(error.value)
    assert "connect to the network, or set data_mirror" in str(error.value)
    assert "\n" not in str(error.value)


def test_plain_http_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not an https:// URL"):
        download("http://example.org/f", "0" * 64, tmp_path / "f")


def test_redirects_are_followed_but_not_to_refused_addresses(
    server: Any, quick: dict[str, float], tmp_path: Path
) -> None:
    server.redirects = {"/good": server.url("/f.bin"), "/bad": "ftp://127.0.0.1/f", "/plain": "http://example.org/f"}
    assert download(server.url("/good"), sha(BODY), tmp_path / "f", **quick).read_bytes() == BODY
    for path in ("/bad", "/plain"):
        with pytest.raises(SourceError, match="redirects to a refused address"):
            download(server.url(path), sha(BODY), tmp_path / "g", **quick)


def test_two_at_once_fetch_once(server: Any, quick: dict[str, float], tmp_path: Path) -> None:
    done: list[Path] = []

    def work() -> None:
        done.append(download(server.url("/f.bin"), sha(BODY), tmp_path / "f.bin", **quick))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [tmp_path / "f.bin"] * 4
    assert len(server.requests) == 1


def test_quiet_when_stderr_is_no_terminal(
    server: Any, quick: dict[str, float], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    download(server.url("/f.bin"), sha(BODY), tmp_path / "f.bin", **quick)
    assert capfd.readouterr() == ("", "")
