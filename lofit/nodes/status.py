"""How a node ended: well, or for a reason of its own that must not stop the others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from lofit.errors import EditError, FitError
from lofit.models import loading
from lofit.models.memory import out_of_memory, require_own_gpus
from lofit.progress import seconds_since_start


@contextlib.contextmanager
def record_failure() -> Iterator[dict[str, Any]]:
    """Yield the node's report, to be filled; an impossible fit or edit, or want of memory, makes it a failed one.

    The report holds ``status`` (``ok`` or ``failed``), ``reason`` (text or None) and, of a node that ended well,
    ``start_seconds``: from its start until its model was loaded, which no other seconds count. Other errors pass
    through.

    Raises:
        LofitError: want of memory on a GPU that other processes held memory of, which says nothing of the node.
    """
    report: dict[str, Any] = {"status": "ok", "reason": None}
    begun = seconds_since_start()
    try:
        with _memory_errors():
            yield report
            report["start_seconds"] = loading.loaded_after() or begun
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
            require_own_gpus(error)
            raise FitError(reason) from None
        raise
