"""Nodes that run at the same time on a machine with several GPUs: each has its own. The devices are pretended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lofit import gpus
from lofit.errors import LofitError

NODE = """
import os, sys
from lofit.gpus import take_gpu
print(take_gpu(), os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


def start(folder: Path, devices: str) -> subprocess.Popen[str]:
    env = os.environ | {"TMPDIR": str(folder), "CUDA_VISIBLE_DEVICES": devices}
    return subprocess.Popen([sys.executable, "-c", NODE], env=env, stdin=-1, stdout=-1, stderr=-1, text=True)


def taken(node: subprocess.Popen[str]) -> str:
    assert node.stdout is not None
    device, shown = node.stdout.readline().split()
    assert device == shown
    return device


def test_each_node_has_a_gpu_of_its_own_and_a_killed_one_gives_its_back(tmp_path: Path) -> None:
    first, second = start(tmp_path, "3,5"), start(tmp_path, "3,5")
    devices = {taken(first): first, taken(second): second}
    assert set(devices) == {"3", "5"}
    waiting = start(tmp_path, "3,5")
    devices["5"].kill()
    assert taken(waiting) == "5"
    for node in (devices["3"], waiting):
        node.communicate(timeout=30)
        assert node.returncode == 0


def test_waiting_ends_with_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holders = [start(tmp_path, "a,b") for _ in range(2)]
    assert {taken(node) for node in holders} == {"a", "b"}
    monkeypatch.setattr(gpus, "lock_folder", lambda: tmp_path / f"lofit-gpus-{os.getuid()}")
    with pytest.raises(LofitError, match=r"all 2 GPUs are taken.*--resources gpu=2"):
        gpus.take_gpu(["a", "b"], wait_seconds=0)
    for node in holders:
        node.communicate(timeout=30)


@pytest.mark.parametrize(("given", "found"), [("1", ["1"]), ("", []), ("-1", []), ("0, 2", ["0", "2"])])
def test_the_scheduler_says_which_gpus_there_are(given: str, found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert gpus.visible_gpus() == found


def test_without_a_scheduler_the_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.visible_gpus() == []
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho GPU-one\necho GPU-two\n")
    smi.chmod(0o755)
    assert gpus.visible_gpus() == ["GPU-one", "GPU-two"]


def test_without_a_choice_nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert gpus.take_gpu() is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
