"""End a node when the Snakemake that started it ends; otherwise a killed Snakemake would leave nodes running.

Nothing is lost, since files are written atomically and training has save points. A node that continued could overwrite
results that the next run of Snakemake already has.
"""

from __future__ import annotations

import os
import select
import threading
from pathlib import Path

from lofit.errors import LofitError

VARIABLE = "LOFIT_SNAKEMAKE"
"""Environment variable with the process id of the Snakemake, or `lofit train`, that started the node on this machine.

That process sets it for its nodes.
"""
MESSAGE = "the process that started this node has ended; the next run repeats the node"


def end_with_snakemake() -> None:
    """End this process as soon as the Snakemake that started it ends; do nothing if no Snakemake started it.

    The process ends at once and without cleanup, as if it had been killed, which all nodes tolerate.

    Raises:
        LofitError: that Snakemake has already ended.
    """
    if not (given := os.environ.get(VARIABLE)):
        return
    try:
        handle = os.pidfd_open(int(given))
    except ProcessLookupError:
        raise LofitError(MESSAGE) from None
    except (AttributeError, OSError):
        return  # no pidfd in this kernel or Python: the node continues, and a later one waits for it (only_writer)
    threading.Thread(target=_wait, args=(handle,), daemon=True).start()


def was_abandoned(log: Path) -> bool:
    """Return whether the node that wrote this log ended because its Snakemake did."""
    return MESSAGE in log.read_text(encoding="utf-8", errors="replace")


def _wait(handle: int) -> None:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.poll()
    try:
        os.write(2, f"error: {MESSAGE}\n".encode())
    finally:  # also if the log cannot be written, for example on a full disk
        os._exit(1)
