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
    except (MemoryError, RuntimeError) as error:
        if reason := out_of_memory(error):
            raise FitError(reason) from None
        raise


def out_of_memory(error: BaseException) -> str | None:
    """What an error says of memory that was wanted, on GPU or host; None if it is of another kind."""
    line = (str(error).splitlines() or ["host"])[0]
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if known or any(said in str(error) for said in ("not enough memory", "can't allocate memory")):
        return f"out of memory ({line})"
    return None
