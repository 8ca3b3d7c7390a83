"""A few random kills in every run of the tests; ``python -m tests.faults.kills`` makes many."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kills import Storm, undisturbed
from tests.shown import LINES

pytestmark = pytest.mark.slow


def test_a_workflow_under_random_kills_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    storm = Storm(tmp_path, undisturbed(tmp_path / "undisturbed"), seed=1)
    storm.run(kills=4)
    assert storm.kills.total() == 4
    assert storm.finished >= 1
    LINES["faults"].append(storm.counts())
