"""Record whether a node succeeded or failed; a failure that concerns this node alone does not stop the workflow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from lofit.errors import EditError, FitError
from lofit.models import loading
from lofit.models.memory import check_no_other_gpu_processes, out_of_memory
from lofit.progress import seconds_since_start


@contextlib.contextmanager
def record_failure() -> Iterator[dict[str, Any]]:
    """Yield the report of a node, to be filled; FitError, EditError and running out of memory are recorded in it.

    The report holds ``status`` (``ok`` or ``failed``) and ``reason`` (text or None). On success it also holds
    ``start_seconds``, the time from the start of the node until its model was loaded, which no other duration
    includes. Other errors propagate.

    Raises:
        LofitError: a GPU ran out of memory while other processes held some of it, so the node may not be the cause.
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
    """Turn running out of memory, on GPU or host, into a FitError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if reason := out_of_memory(error):
            check_no_other_gpu_processes(error)
            raise FitError(reason) from None
        raise
