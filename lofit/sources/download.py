"""Download one file with a known checksum: resumable, verified, atomic, and safe with several processes."""

from __future__ import annotations

import http.client
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPMessage
from pathlib import Path
from typing import IO

from lofit.errors import SourceError
from lofit.files import sha256_of
from lofit.sources.source import check_url

CHUNK = 1 << 20
REMEDY = "connect to the network, or set data_mirror to a folder that holds the file"
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Interrupted(Exception):
    """A transient network error; another attempt continues where this one ended."""


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects only to URLs that :func:`check_url` accepts."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        try:
            check_url(newurl)
        except ValueError as error:
            raise SourceError(f"{req.full_url} redirects to a refused address: {error}") from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock file beside ``target``; other processes that want the same target wait."""
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        yield


def download(
    url: str, sha256: str, target: Path, *, attempts: int = 5, backoff: float = 1.0, timeout: float = 30.0
) -> Path:
    """Download ``url`` to ``target`` unless a file with the right checksum is already there.

    A partial download is kept in ``.<name>.part`` beside the target and resumed with an HTTP Range request if the
    server supports it. The checksum is verified before the file gets its final name.

    Args:
        url: an https address (plain http only for localhost).
        sha256: expected checksum, 64 hexadecimal digits.
        target: path of the file.
        attempts: total number of attempts in case of transient network errors.
        backoff: seconds before the second attempt; doubled for each further one.
        timeout: seconds without a byte after which an attempt counts as failed.

    Returns:
        ``target``.

    Raises:
        SourceError: the address is refused, not found or not reachable, or the checksum differs.
    """
    try:
        check_url(url)
    except ValueError as error:
        raise SourceError(f"cannot download: {error}") from None
    with locked(target):
        if target.is_file() and sha256_of(target) == sha256:
            return target
        part = target.parent / f".{target.name}.part"
        resumed = _fetch(url, part, attempts=attempts, backoff=backoff, timeout=timeout)
        found = sha256_of(part)
        if found != sha256 and resumed:  # the partial file may have been of another file: start over once
            part.unlink()
            _fetch(url, part, attempts=attempts, backoff=backoff, timeout=timeout)
            found = sha256_of(part)
        if found != sha256:
            part.unlink()
            raise SourceError(
                f"{url} has the wrong checksum: expected sha256 {sha256}, found {found}; the file was removed. "
                "It changed at its origin or was altered on the way"
            )
        os.replace(part, target)
    return target


def _fetch(url: str, part: Path, *, attempts: int, backoff: float, timeout: float) -> bool:
    """Download to ``part`` with retries after transient errors; return whether an existing part was resumed."""
    resumed = part.is_file() and part.stat().st_size > 0
    fault = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(backoff * 2 ** (attempt - 1))
        try:
            _fetch_once(url, part, timeout)
            return resumed
        except _Interrupted as error:
            fault = str(error)
    raise SourceError(f"cannot reach {url} ({fault}; {attempts} attempts); {REMEDY}")


def _fetch_once(url: str, part: Path, timeout: float) -> None:
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "lofit-bench", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    opener = urllib.request.build_opener(_CheckedRedirects)
    try:
        response = opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # the partial file is as long as the file, or longer: start over
                part.unlink(missing_ok=True)
                raise _Interrupted("the server refused to continue the partial file") from None
            if error.code in _TRANSIENT_STATUS:
                raise _Interrupted(f"HTTP {error.code} {error.reason}") from None
            hint = "check the address" if error.code in (404, 410) else "check your access"
            raise SourceError(f"{url} answers HTTP {error.code} {error.reason}; {hint}, or set data_mirror") from None
    except (OSError, http.client.HTTPException) as error:
        raise _network_fault(url, error) from None
    with response:
        continues = response.status == 206 and _range_start(response.headers.get("Content-Range")) == have
        if have and response.status == 206 and not continues:
            part.unlink()
            raise _Interrupted("the server sent another range than asked for")
        start = have if continues else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None and length.isdigit() else None
        with _open_part(part, "ab" if continues else "wb") as out, _progress(part, start, total) as advance:
            got = start
            while chunk := _read(url, response):
                _write(part, out, chunk)
                got += len(chunk)
                advance(len(chunk))
    if total is not None and got < total:
        raise _Interrupted(f"the connection ended after {got} of {total} bytes")


def _range_start(header: str | None) -> int | None:
    """Return the first byte position in a Content-Range header such as ``bytes 100-199/200``."""
    match = re.match(r"bytes (\d+)-", header or "")
    return int(match[1]) if match else None


def _read(url: str, response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _network_fault(url, error) from None


def _open_part(part: Path, mode: str) -> IO[bytes]:
    try:
        return part.open(mode)
    except OSError as error:
        raise SourceError(f"cannot write {part}: {error.strerror}") from None


def _write(part: Path, out: IO[bytes], chunk: bytes) -> None:
    try:
        out.write(chunk)
    except OSError as error:
        raise SourceError(f"cannot write {part}: {error.strerror}; free some space or choose another cache") from None


def _network_fault(url: str, error: Exception) -> Exception:
    """Turn a network exception into a transient error, which is retried, or a final one."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return SourceError(
            f"{url}: the server's certificate is not trusted ({reason.verify_message}); check the clock "
            "and set SSL_CERT_FILE if your network uses its own certificates"
        )
    return _Interrupted((str(reason).strip().splitlines() or [type(reason).__name__])[0])


@contextmanager
def _progress(part: Path, start: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar if stderr is a terminal; yield a function that advances it by a number of bytes."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    name = part.name.removeprefix(".").removesuffix(".part")
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(name, total=total, completed=start)
        yield lambda size: bar.advance(task, size)
