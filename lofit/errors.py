"""Errors a user can act on: one clear line each, no traceback.

The command line prints them as ``error: <message>`` and exits non-zero. Anything else that escapes
is a bug and is shown with its traceback.
"""

from __future__ import annotations

import errno
import os
import re
import sys

MAX_LENGTH = 2000
"""Length of a message in characters above which its middle is cut out."""
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")

_NO_ROOM = "free some space, or name another folder (results, resources, TMPDIR)"
_NO_ACCESS = "make it accessible, or name another folder (results, resources)"
_REMEDIES = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EFBIG: "allow larger files (ulimit -f), or name another folder (results, resources, TMPDIR)",
    errno.EROFS: _NO_ACCESS,
    errno.EACCES: _NO_ACCESS,
    errno.EPERM: _NO_ACCESS,
    errno.ENOTDIR: _NO_ACCESS,
    errno.ENOENT: "it was removed while it was needed, or never made; run the workflow again",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the network file system, and run the workflow again",
    errno.EMFILE: "allow more open files (ulimit -n)",
}
"""What to do about the system errors that a long run may meet, by errno."""


def redacted(text: str) -> str:
    """Replace Hugging Face access tokens, and the credentials in URLs, with placeholders."""
    hub = sys.modules.get("huggingface_hub")  # the token of a login is only in use if this was imported
    logged_in = getattr(hub, "get_token", lambda: None)
    tokens = [os.environ.get(name) for name in _TOKENS] + [logged_in()]
    for token in ((token or "").strip() for token in tokens):
        if len(token) >= 8:  # anything shorter is not a token, and could match ordinary words
            text = text.replace(token, "<token>")
    text = re.sub(r"(hf|api_org)_[A-Za-z0-9]{8,}", "<token>", text)
    return re.sub(r"(\w://)[^\s/@'\"]+@", r"\1<credentials>@", text)


def one_line(text: str) -> str:
    """Put a text on one line of bounded length, with control characters escaped."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text.strip())
    half = MAX_LENGTH // 2
    return line if len(line) <= MAX_LENGTH else f"{line[:half]} ... {line[-half:]}"


def brief(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name if it has none; no secrets, 200 characters."""
    return (redacted(str(error)).strip().splitlines() or [type(error).__name__])[0][:200]


class LofitError(Exception):
    """Base of every error whose message says what is wrong, where, and what to do: one line, without secrets."""

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(redacted(str(message))))


class ConfigError(LofitError):
    """The configuration is invalid; nothing was downloaded or written."""

    def __init__(self, *problems: object) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = [str(LofitError(problem)) for problem in problems]


def error_lines(error: LofitError) -> str:
    """Return what the command line prints: ``error: <problem>``, a line for each problem of a configuration."""
    problems = error.problems if isinstance(error, ConfigError) else [error]
    return "\n".join(f"error: {problem}" for problem in problems)


class SourceError(LofitError):
    """A model or dataset could not be fetched, verified or unpacked."""


class TaskError(LofitError):
    """Task data is malformed or does not fit the requested options."""


class EditError(LofitError, ValueError):
    """An intervention cannot be applied to, or folded into, this model; a ValueError, like PEFT's own errors."""


class FitError(LofitError):
    """Fitting or scoring failed for a reason specific to this run (diverged loss, out of memory)."""


class StoreError(LofitError):
    """A stored node is damaged, or is not the node that is wanted."""


class ReportError(LofitError):
    """Results are missing, malformed, or cannot be combined in one table or figure."""


def system_error(error: BaseException) -> str | None:
    """Describe a system error as ``path: problem; remedy``; None for any other error, which is a bug.

    Libraries wrap such errors, so the chain of causes is searched, also for messages of native code that contain
    ``(os error 28)`` or the like.
    """
    found: BaseException | None = error
    while found is not None:
        number, path = None, None
        if isinstance(found, OSError):
            number, path = found.errno, found.filename
        elif native := re.search(r"\(os error (\d+)\)", str(found)):
            number = int(native[1])
        if number in _REMEDIES:
            return f"{path or 'a file of this node'}: {os.strerror(number)}; {_REMEDIES[number]}"
        found = found.__cause__
    return None
