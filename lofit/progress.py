"""Progress of a node: a bar on a terminal, a few lines in a log; and the time since it was started."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

STARTED = "LOFIT_STARTED"
"""When the command was started, in seconds of the monotonic clock, which all processes share; it sets it itself."""
_IMPORTED = time.monotonic()


def seconds_since_start() -> float:
    """Seconds since the command was started."""
    return time.monotonic() - float(os.environ.get(STARTED, _IMPORTED))


@contextlib.contextmanager
def track(title: str, total: int, show: bool = True, done: int = 0) -> Iterator[Callable[[str], None]]:
    """Yield ``advance(note)``; a bar is drawn on a terminal, and a line every tenth of the way elsewhere.

    Args:
        title: what is done.
        total: how many steps there are.
        show: whether to draw a bar at all.
        done: how many of them are done already.
    """
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
