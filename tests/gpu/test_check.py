"""The check of GPU machines runs: on a CPU at toy shapes, on a GPU whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu.check import PARTS, ROOT

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]),
]


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_every_part_of_the_check_holds(device: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu.check", "--device", device, "--out", str(tmp_path / "table.md")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    assert done.returncode == 0, [line for line in lines if "**NO**" in line] or done.stderr[-2000:]
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == list(PARTS)
    assert sum(line.endswith("| yes |") for line in lines) >= 15


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_check_says_so_in_one_line() -> None:
    command = [sys.executable, "-m", "tests.gpu.check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: device: cuda asked for, but torch")
    assert "Traceback" not in done.stderr
