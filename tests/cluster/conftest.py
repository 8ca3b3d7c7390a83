"""The cluster, and the table of its jobs at the end of the tests' output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import COLUMNS, Cluster, why_not
from tests.shown import LINES


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

    def keep(title: str, folder: Path) -> None:
        names = [name for name in COLUMNS if name != "folder"]
        rows = [names, *([getattr(job, name) for name in names] for job in cluster.jobs(folder))]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            LINES[f"SLURM jobs: {title}"].append(line.rstrip())

    return keep
