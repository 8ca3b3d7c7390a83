"""`lofit train` on the worked example, without the workflow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.checkpoint import save_checkpoint

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "opposites"


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lofit", "train", "--out", str(folder / "out"), "--threads", "1", *arguments]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, check=False)


def test_the_worked_example(tmp_path: Path) -> None:
    model = save_checkpoint(tmp_path / "tiny")
    done = train(
        tmp_path, "--task-dir", str(EXAMPLE), "--model", str(model), "--method", "lofit", "--method", "iti", "--k", "3"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = pd.read_parquet(tmp_path / "out" / "results.parquet").set_index("method")
    assert sorted(results.index) == ["base", "iti", "lofit"]
    assert (results["status"] == "ok").all()
    assert (results["n_items"] == 30).all()
    assert results["n_heads"]["lofit"] == 3
    assert "lofit (3 heads)" in done.stdout
    assert "out/tables/suite.md" in done.stdout
    assert len(list((tmp_path / "out" / "runs").glob("tiny/opposites/**/adapter_model.safetensors"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task-dir", "nowhere", "--method", "lofit"], "nowhere: cannot be read"),
        (["--task-dir", str(EXAMPLE), "--method", "lofti"], "unknown method 'lofti'; did you mean 'lofit'?"),
        (["--task-dir", str(EXAMPLE), "--method", "lora", "--model", "smolm"], "unknown model 'smolm'"),
        (["--task-dir", str(EXAMPLE), "--method", "lora", "--model", "."], "config.json cannot be read"),
        (["--task-dir", str(EXAMPLE), "--method", "lofit", "--k", "999"], "999 is more than the 270 heads"),
        (["--task-dir", "t\udcff", "--method", "lora"], "t\\udcff: a name that is not UTF-8; rename the folder"),
        (["--task-dir", str(EXAMPLE), "--method", "lora", "--out", "o\udcff"], "o\\udcff: a name that is not UTF-8"),
    ],
)
def test_what_cannot_be_run_is_one_line_and_leaves_nothing(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = train(tmp_path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
