"""What fails a node, and what must not be hidden as a failure."""

from __future__ import annotations

import pytest
import torch

from lofit.errors import ConfigError, EditError, FitError
from lofit.fit.outcome import outcome


def test_a_node_that_ends_well_reports_what_it_was_given() -> None:
    with outcome() as report:
        report |= {"seconds": 1.0}
    assert report == {"status": "ok", "reason": None, "seconds": 1.0}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FitError("loss is nan"), "loss is nan"),
        (EditError("no place for a ffn edit"), "no place for a ffn edit"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), "out of memory (CUDA out of"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory (DefaultCPU"),
        (MemoryError(), "out of memory (host)"),
    ],
)
def test_its_own_failures_become_its_status_and_nothing_else_is_kept(error: Exception, reason: str) -> None:
    with outcome() as report:
        report |= {"seconds": 1.0}
        raise error
    assert set(report) == {"status", "reason"}
    assert report["status"] == "failed"
    assert report["reason"].startswith(reason)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ConfigError("x"), KeyError("y")])
def test_bugs_and_mistakes_of_the_user_stay_loud(error: Exception) -> None:
    with pytest.raises(type(error)), outcome():
        raise error
