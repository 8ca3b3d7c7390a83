"""A loopback file server that can be told to misbehave, and small wheels."""

from __future__ import annotations

import hashlib
import re
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class FileServer:
    """Serves ``files`` (path -> bytes) and records each request as (path, Range header)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.statuses: list[int] = []  # answered first, one per request
        self.cut_after: list[int] = []  # bytes after which a connection is dropped, one per request
        self.honour_range = True
        self.requests: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                outer.requests.append((self.path, asked))
                if outer.statuses:
                    self.send_error(outer.statuses.pop(0))
                elif self.path in outer.redirects:
                    self.send_response(302)
                    self.send_header("Location", outer.redirects[self.path])
                    self.end_headers()
                elif self.path not in outer.files:
                    self.send_error(404)
                else:
                    self._send(outer.files[self.path], asked)

            def _send(self, body: bytes, asked: str | None) -> None:
                start = 0
                if asked and outer.honour_range:
                    start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
                    if start >= len(body):
                        self.send_error(416)
                        return
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                else:
                    self.send_response(200)
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                end = start + outer.cut_after.pop(0) if outer.cut_after else len(body)
                self.wfile.write(body[start:end])

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[FileServer]:
    server = FileServer()
    yield server
    server.close()


class Wheel:
    """A wheel of the package ``tinydata`` 1.0 in a folder that pip uses as its only source."""

    requirement = "tinydata==1.0"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tinydata-1.0-py3-none-any.whl"
        self.members = {"tinydata/rows.jsonl": b'{"a": 1}\n', "tinydata/other.txt": b"other\n"}
        meta = {
            "tinydata-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n",
            "tinydata-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "tinydata-1.0.dist-info/RECORD": b"",
        }
        with zipfile.ZipFile(self.path, "w") as archive:
            for name, body in {**self.members, **meta}.items():
                archive.writestr(zipfile.ZipInfo(name), body)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    folder = tmp_path / "wheels to find"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return Wheel(folder)
