"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data_mirror() -> Path:
    """Folder with the real data of the tasks, in the layout that the configuration key ``data_mirror`` expects."""
    given = os.environ.get("LOFIT_DATA_MIRROR")
    mirror = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if not (mirror / "lofit-paper-splits").is_dir():
        pytest.skip("real data: set LOFIT_DATA_MIRROR or place the mirror at ../shared/data")
    return mirror
