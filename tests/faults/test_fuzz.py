"""A few broken inputs of every kind, the same in every run; ``python -m tests.faults.fuzz`` tries many."""

from __future__ import annotations

import pytest

from tests.faults.fuzz import KINDS
from tests.faults.kinds import Kind, tally
from tests.shown import LINES

EXAMPLES = {"configurations": 150, "adapters": 60, "rows": 150, "downloads": 120, "folders": 150}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_broken_inputs_are_refused_in_one_line(kind: Kind) -> None:
    found = tally(kind, EXAMPLES[kind.name], seeded=0)
    tried = f"{found.refused} clear errors, {found.accepted} valid, {len(found.crashes)} crashes"
    LINES["faults"].append(f"{kind.name}: {found.tried} tried, {tried}")
    assert not found.crashes, "\n".join(crash[:2000] for crash in found.crashes)
    assert found.accepted >= EXAMPLES[kind.name] / 20, "hardly anything is taken: the good inputs are not good"
    assert found.refused >= EXAMPLES[kind.name] / 4, "hardly anything is refused: the broken inputs are not broken"
