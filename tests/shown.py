"""Lines for the end of the tests' output, by title; tests/conftest.py prints them, from wherever the tests ran."""

from __future__ import annotations

from collections import defaultdict

LINES: defaultdict[str, list[str]] = defaultdict(list)
