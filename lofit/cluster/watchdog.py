"""A node ends with the Snakemake that started it: a killed one would otherwise leave nodes at work behind it.

Nothing is lost, since whatever is written is written whole and training has save points; and a node that went on could
write its results once more after the next Snakemake had them.
"""

from __future__ import annotations

import os
import select
import threading
from pathlib import Path

from lofit.errors import LofitError

VARIABLE = "LOFIT_SNAKEMAKE"
"""Process id of the Snakemake, or `lofit train`, on this machine that the node belongs to; it sets it for its nodes."""
MESSAGE = "what started this is gone; the next run does this again"


def end_with_snakemake() -> None:
    """From now on, end this process as soon as the Snakemake that started it has ended; without one do nothing.

    At once, without cleaning up: as if it were killed too, which every node withstands.

    Raises:
        LofitError: that Snakemake is gone already.
    """
    if not (given := os.environ.get(VARIABLE)):
        return
    try:
        handle = os.pidfd_open(int(given))
    except ProcessLookupError:
        raise LofitError(MESSAGE) from None
    except (AttributeError, OSError):
        return  # a kernel or a Python without them: nodes go on, and the next ones wait for them (only_writer)
    threading.Thread(target=_wait, args=(handle,), daemon=True).start()


def was_abandoned(log: Path) -> bool:
    """Whether the node that wrote this log ended because its Snakemake did."""
    return MESSAGE in log.read_text(encoding="utf-8", errors="replace")


def _wait(handle: int) -> None:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.poll()
    try:
        os.write(2, f"error: {MESSAGE}\n".encode())
    finally:  # also on a disk that is full
        os._exit(1)
