"""Fixtures shared by all tests, and what is shown when all are done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lofit.node_server import client
from tests.shown import LINES

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def node_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One server of the libraries for all commands and workflows that this process's tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(client.OWNER, str(os.getpid()))
        patch.setenv(client.VARIABLE, str(tmp_path_factory.mktemp("servers")))
        patch.setenv("PYTHONSAFEPATH", "1")  # else every test's own folder is part of its server's name
        yield


@pytest.fixture(scope="session")
def data_mirror() -> Path:
    """Folder with the real data of the tasks, in the layout that the configuration key ``data_mirror`` expects."""
    given = os.environ.get("LOFIT_DATA_MIRROR")
    mirror = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if not (mirror / "lofit-paper-splits").is_dir():
        pytest.skip("real data: set LOFIT_DATA_MIRROR or place the mirror at ../shared/data")
    return mirror


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones, which run the workflow, first: at the end they would keep one process alone at work."""
    items.sort(key=lambda item: "unit" in item.path.relative_to(REPOSITORY).parts)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Of a process that tests are spread over: hand its lines to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["shown"] = dict(LINES)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the lines of a process that tests were spread over; one that crashed has none."""
    for title, lines in getattr(node, "workeroutput", {}).get("shown", {}).items():
        LINES[title] += lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for title, lines in LINES.items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
