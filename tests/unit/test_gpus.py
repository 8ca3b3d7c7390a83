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
from lofit.gpus import take_gpus
print(",".join(take_gpus(int(sys.argv[1]))), os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


def start(folder: Path, devices: str, count: int = 1) -> subprocess.Popen[str]:
    env = os.environ | {"TMPDIR": str(folder), "CUDA_VISIBLE_DEVICES": devices}
    return subprocess.Popen(
        [sys.executable, "-c", NODE, str(count)], env=env, stdin=-1, stdout=-1, stderr=-1, text=True
    )


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


def test_a_model_on_two_gpus_waits_for_two_and_holds_none_meanwhile(tmp_path: Path) -> None:
    single = start(tmp_path, "0,1,2")
    assert taken(single) == "0"
    pair = start(tmp_path, "0,1,2", count=2)
    assert taken(pair) == "1,2"
    waiting = start(tmp_path, "0,1,2", count=2)
    single.communicate(timeout=30)
    last = start(tmp_path, "0,1,2")
    assert taken(last) == "0", "who waits for two does not keep the one that is free"
    for node in (pair, last):
        node.communicate(timeout=30)
    assert len(taken(waiting).split(",")) == 2
    waiting.communicate(timeout=30)


def test_waiting_ends_with_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holders = [start(tmp_path, "a,b") for _ in range(2)]
    assert {taken(node) for node in holders} == {"a", "b"}
    monkeypatch.setattr(gpus, "lock_folder", lambda: tmp_path / f"lofit-gpus-{os.getuid()}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "a,b")
    with pytest.raises(LofitError, match=r"1 of 2 GPUs wanted.*--resources gpu=2"):
        gpus.take_gpus(1, wait_seconds=0)
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
    assert gpus.take_gpus(1) == []
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
