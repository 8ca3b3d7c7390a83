"""End a node when the Snakemake that started it ends; otherwise a killed Snakemake would leave nodes running.

Nothing is lost, since files are written atomically and training has save points. A node that continued could overwrite
results that the next run of Snakemake already has.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

from lofit.errors import LofitError

VARIABLE = "LOFIT_SNAKEMAKE"
"""Environment variable with the process id of the Snakemake, or `lofit train`, that started the node on this machine.

That process sets it for its nodes.
"""
MESSAGE = "the process that started this node has ended; the next run repeats the node"
INTERRUPTED = "interrupted; the next run goes on from here"


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


def end_on_interrupt() -> None:
    """Say, on Ctrl-C, that this process was interrupted, and exit with status 130; not where interrupts are ignored."""

    def end(*_: object) -> NoReturn:
        print(f"error: {INTERRUPTED}", file=sys.stderr, flush=True)
        sys.exit(130)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


def was_abandoned(log: Path) -> bool:
    """Return whether the node that wrote this log ended because its Snakemake did, or was interrupted."""
    said = log.read_text(encoding="utf-8", errors="replace")
    return MESSAGE in said or INTERRUPTED in said


def _wait(handle: int) -> None:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.poll()
    try:
        os.write(2, f"error: {MESSAGE}\n".encode())
    finally:  # also if the log cannot be written, for example on a full disk
        os._exit(1)
