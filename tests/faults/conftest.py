"""Counts of what was broken, at the end of the tests' output."""

from __future__ import annotations

from collections.abc import Callable

import pytest

LINES: list[str] = []


@pytest.fixture
def count() -> Callable[[str], None]:
    """Have a line shown when all tests are done."""
    return LINES.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if LINES:
        terminalreporter.section("faults")
        for line in LINES:
            terminalreporter.write_line(line)
