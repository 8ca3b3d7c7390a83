"""Progress of a node (a bar on a terminal, a few lines in a log) and the time since it was started."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator

STARTED = "LOFIT_STARTED"
"""Environment variable with the start time of the command, which sets it itself: seconds of the monotonic clock, which
all processes share."""
_IMPORTED = time.monotonic()


def seconds_since_start() -> float:
    """Return the seconds since the command was started."""
    return time.monotonic() - float(os.environ.get(STARTED, _IMPORTED))


_silent = False


@contextlib.contextmanager
def without_progress() -> Iterator[None]:
    """Context in which :func:`track` and warnings to the log show nothing, for work that is one step of something."""
    global _silent
    before, _silent, level = _silent, True, logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        _silent = before
        logging.disable(level)


@contextlib.contextmanager
def track(title: str, total: int, show: bool = True, done: int = 0) -> Iterator[Callable[[str], None]]:
    """Yield ``advance(note)``, to be called after every step; on a terminal a bar is drawn.

    Elsewhere a line is printed after every tenth of the steps.

    Args:
        title: label of the bar or the lines.
        total: number of steps.
        show: whether to draw a bar on a terminal; if not, lines are printed there too.
        done: number of steps that are already done.
    """
    if _silent:
        yield lambda note: None
        return
    if show and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=total, completed=done)
            yield lambda note: bar.update(task, advance=1, description=note)
        return

    def advance(note: str) -> None:
        nonlocal done
        done += 1
        if done * 10 // total > (done - 1) * 10 // total:
            print(f"{title}: {done}/{total} {note}", file=sys.stderr, flush=True)

    yield advance
