"""The search for learning rates: what it writes, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.checkpoint import save_checkpoint

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tune")
    model = {"kind": "local", "path": str(save_checkpoint(made / "checkpoint"))}
    config = {
        "models": ["tiny"],
        "model_sources": {"tiny": {"source": model, "n_layers": 3, "n_heads": 4}},
        "tasks": {"listops": {"options": {"n_train": 8, "n_validation": 4, "n_test": 6}}},
        "methods": {"base": None, "lora": {"params": {"epochs": 2}}, "lofit": {"heads": {"k": [3]}}},
        "threads": 1,
    }
    (made / "config.yaml").write_text(yaml.safe_dump(config))
    return made


def tune(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "scripts" / "tune.py"), "--out", "tune.csv", *arguments]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, check=False)


def test_every_rate_is_a_row_and_a_diverged_one_says_why(folder: Path) -> None:
    done = tune(folder, "--rate", "lora=0.01", "--rate", "lora=1e30", "--rate", "lofit=0.02")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(folder / "tune.csv").set_index(["method", "lr"])
    assert table["status"].to_dict() == {("lora", 0.01): "ok", ("lora", 1e30): "failed", ("lofit", 0.02): "ok"}
    assert "lower the learning rate" in table["reason"]["lora", 1e30]
    good = table[table["status"] == "ok"]
    assert (good["n_items"] == 4).all()
    assert good["validation_loss"].gt(0).all()


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ("loftt=0.1", "unknown method 'loftt'; did you mean 'lofit'?"),
        ("lora", "'' is not a number"),
        ("base=0.1", "base has no learning rate"),
    ],
)
def test_a_rate_that_means_nothing_is_one_line(folder: Path, rate: str, message: str) -> None:
    done = tune(folder, "--rate", rate)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
