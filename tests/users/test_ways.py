"""What users do, as the tutorials and scripts beside this file have it, on a tiny model."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.checkpoint import save_checkpoint
from tests.users.ways import WAYS, go, install_wheel

pytestmark = pytest.mark.slow

SAID = {
    "own-data": ["| lora  ", "### messages-", "nats right", "lofit run "],
    "own-method": ["nudge (1 head)", "would run: 1 fit, 1 evaluate, 1 collect"],
    "own-model": ["smollm2-360m", "fewshot"],
    "published_figure": ["results/laptop/tables/planted.md"],
    "cluster": ["would run: "],
    "carelessly": ["unknown key 'mehtods'", "forty-two", "column 'txt'"],
    "only_looking": ["lofit 0.", "nodes have a result"],
    "pip_alone": ["Nothing to do", "nodes have a result"],
}
"""What each has to print, among other lines."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.parametrize("way", WAYS)
def test_a_user_arrives(way: str, model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    programs = request.getfixturevalue("wheel") if way == "pip_alone" else Path(sys.executable).parent
    printed, _ = go(way, tmp_path, programs, model)
    assert [text for text in SAID[way] if text not in printed] == []
    if way == "pip_alone":
        table = pd.read_csv(tmp_path / "mine" / "results" / "own" / "tables" / "main.csv")
        assert list(table["method"]) == ["base", "fewshot", "iti", "lofit (1 head)", "lora"]
