"""The cluster, and the table of its jobs at the end of the tests' output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import COLUMNS, Cluster, JobRecord, why_not

SHOWN: list[tuple[str, list[JobRecord]]] = []


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(f"cluster: {reason}")
    made = Cluster()
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="package")
def show(cluster: Cluster) -> Callable[[str, Path], None]:
    """Have the jobs of a folder shown under a title."""
    return lambda title, folder: SHOWN.append((title, cluster.jobs(folder)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    names = [name for name in COLUMNS if name != "folder"]
    for title, jobs in SHOWN:
        terminalreporter.section(f"SLURM jobs: {title}")
        rows = [names, *([getattr(job, name) for name in names] for job in jobs)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            terminalreporter.write_line(line.rstrip())
