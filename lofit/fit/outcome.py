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
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise FitError(f"out of memory ({(str(error).splitlines() or ['host'])[0]})") from None
    except RuntimeError as error:
        if "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise FitError(f"out of memory ({str(error).splitlines()[0]})") from None
