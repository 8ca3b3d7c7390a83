"""How a node ended: well, or for a reason of its own that must not stop the others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from lofit.errors import EditError, FitError


@contextlib.contextmanager
def outcome() -> Iterator[dict[str, Any]]:
    """Yield the node's report, to be filled; an impossible fit or edit, or want of memory, makes it a failed one.

    The report holds ``status`` (``ok`` or ``failed``) and ``reason`` (text or None). Other errors pass through.
    """
    report: dict[str, Any] = {"status": "ok", "reason": None}
    try:
        with _memory_errors():
            yield report
    except (FitError, EditError) as error:
        report.clear()
        report.update(status="failed", reason=str(error))


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    """Turn running out of memory, on GPU or host, into a failure of this node alone."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise FitError(f"out of memory ({(str(error).splitlines() or ['host'])[0]})") from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on GPU or host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("not enough memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in words)
