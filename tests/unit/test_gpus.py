"""Nodes that run at the same time on a machine with GPUs: each has its own. The devices are pretended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lofit.cluster import gpus

NODE = """
import os, sys
from lofit.cluster.gpus import take_gpus
take_gpus(int(sys.argv[1]))
print(os.environ["CUDA_VISIBLE_DEVICES"], os.environ.get("CUDA_DEVICE_ORDER"), flush=True)
sys.stdin.read()
"""
LISTED = ("GPU-aa11", "GPU-bb22")


def driver(folder: Path, *uuids: str) -> str:
    """A folder for PATH with an ``nvidia-smi`` that lists GPUs, as the cgroup of a process shows them: from index 0."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"echo {index}, {uuid}\n" for index, uuid in enumerate(uuids)) or "exit 9\n"
    asked = 'case "$*" in *index,uuid*noheader*) ;; *) exit 1;; esac'
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{asked}\n{lines}")
    (folder / "nvidia-smi").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def start(
    folder: Path, devices: str | None, count: int = 1, listed: tuple[str, ...] = (), order: str | None = None
) -> subprocess.Popen[str]:
    path = driver(folder / f"driver-{'-'.join(listed)}", *listed)
    changes = {"TMPDIR": str(folder), "PATH": path, "CUDA_VISIBLE_DEVICES": devices, "CUDA_DEVICE_ORDER": order}
    env = {name: value for name, value in (os.environ | changes).items() if value is not None}
    return subprocess.Popen(
        [sys.executable, "-c", NODE, str(count)], env=env, stdin=-1, stdout=-1, stderr=-1, text=True
    )


def shown(node: subprocess.Popen[str]) -> tuple[str, str]:
    """What CUDA shows a node, and in which order it counts."""
    assert node.stdout is not None
    devices, order = node.stdout.readline().split()
    return devices, order


def taken(node: subprocess.Popen[str]) -> str:
    return shown(node)[0]


def said_while_waiting(node: subprocess.Popen[str]) -> str:
    assert node.stderr is not None
    said = node.stderr.readline()
    assert said.startswith("waiting"), said
    return said


def end(*nodes: subprocess.Popen[str]) -> None:
    for node in nodes:
        _, said = node.communicate(timeout=30)
        assert node.returncode == 0
        assert "waiting" not in said, "once is enough"


def test_each_node_has_a_gpu_of_its_own_and_a_killed_one_gives_its_back(tmp_path: Path) -> None:
    first, second = start(tmp_path, "3,5"), start(tmp_path, "3,5")
    devices = {taken(first): first, taken(second): second}
    assert set(devices) == {"3", "5"}
    waiting = start(tmp_path, "3,5")
    said = said_while_waiting(waiting)
    assert said.startswith("waiting for 1 of the GPUs 3, 5, held by process ")
    assert all(str(holder.pid) in said for holder in devices.values())
    assert "--resources gpu=2" in said
    devices["5"].kill()
    assert taken(waiting) == "5"
    end(devices["3"], waiting)


@pytest.mark.parametrize("devices", ["0", None])
def test_the_only_gpu_is_locked_too(devices: str | None, tmp_path: Path) -> None:
    """Snakemake starts as many nodes as there are cores, unless it is told how many GPUs there are."""
    holder = start(tmp_path, devices, listed=LISTED[:1])
    assert taken(holder) == "0"
    waiting = start(tmp_path, devices, listed=LISTED[:1])
    assert f"held by process {holder.pid};" in said_while_waiting(waiting)
    end(holder)
    assert taken(waiting) == "0"
    end(waiting)


def test_a_model_on_two_gpus_waits_for_two_and_holds_none_meanwhile(tmp_path: Path) -> None:
    single = start(tmp_path, "0,1,2")
    assert taken(single) == "0"
    pair = start(tmp_path, "0,1,2", count=2)
    assert taken(pair) == "1,2"
    waiting = start(tmp_path, "0,1,2", count=2)
    said_while_waiting(waiting)
    end(single)
    last = start(tmp_path, "0,1,2")
    assert taken(last) == "0", "who waits for two does not keep the one that is free"
    end(pair, last)
    assert len(taken(waiting).split(",")) == 2
    end(waiting)


def test_a_model_that_wants_more_gpus_than_there_are_takes_all_and_says_so(tmp_path: Path) -> None:
    pair = start(tmp_path, "1,2", count=4)
    assert pair.stderr is not None
    assert pair.stderr.readline() == "4 GPUs asked for, of 2 here: using all\n"
    assert taken(pair) == "1,2"
    waiting = start(tmp_path, "1,2")
    said_while_waiting(waiting)
    end(pair)
    assert taken(waiting) == "1"
    end(waiting)


def test_jobs_of_a_cluster_that_all_call_their_gpu_0_hold_the_gpu_that_it_is(tmp_path: Path) -> None:
    jobs = [start(tmp_path, "0", listed=(uuid,)) for uuid in LISTED]
    assert [taken(job) for job in jobs] == ["0", "0"]
    third = start(tmp_path, "0", listed=LISTED[1:])
    assert f"held by process {jobs[1].pid};" in said_while_waiting(third)
    end(*jobs)
    assert taken(third) == "0"
    end(third)


def test_who_calls_a_gpu_by_its_uuid_and_who_by_its_index_share_a_lock(tmp_path: Path) -> None:
    holder = start(tmp_path, "1", listed=LISTED)
    assert taken(holder) == "1"
    waiting = start(tmp_path, LISTED[1], listed=LISTED)
    said_while_waiting(waiting)
    end(holder)
    assert shown(waiting) == ("1", "PCI_BUS_ID")
    end(waiting)


@pytest.mark.parametrize(
    ("given", "count", "expected"),
    [
        (None, 1, ("0", "PCI_BUS_ID")),
        (None, 2, ("0,1", "PCI_BUS_ID")),
        ("1", 1, ("1", "None")),
        ("GPU-bb", 1, ("1", "PCI_BUS_ID")),
        ("GPU-bb22,GPU-aa11", 2, ("1,0", "PCI_BUS_ID")),
        ("MIG-1f", 1, ("MIG-1f", "None")),
        ("MIG-GPU-aa11/1/0", 1, ("MIG-GPU-aa11/1/0", "None")),
    ],
)
def test_cuda_is_given_indices_in_the_order_they_were_counted_in(
    given: str | None, count: int, expected: tuple[str, str], tmp_path: Path
) -> None:
    """vLLM takes no UUIDs; nvidia-smi counts in the order of the bus, CUDA by speed unless it is told."""
    node = start(tmp_path, given, count, listed=LISTED)
    assert shown(node) == expected
    end(node)


NONE: list[str] = []


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("1", ["1"]),
        ("0, 2", ["0", "2"]),
        ("1,1", ["1"]),
        ("0,-1,1", ["0"]),
        *((none, NONE) for none in ("", "-1", "NoDevFiles", "none")),
    ],
)
def test_the_scheduler_says_which_gpus_there_are(
    given: str, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    for uuids in ((), ("GPU-a", "GPU-b", "GPU-c")):
        monkeypatch.setenv("PATH", driver(tmp_path, *uuids))
        assert list(gpus.visible_gpus()) == found


def test_without_a_scheduler_the_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.visible_gpus() == {}
    monkeypatch.setenv("PATH", driver(tmp_path, *LISTED))
    assert gpus.visible_gpus() == {"0": LISTED[0], "1": LISTED[1]}
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho No devices were found\n")
    assert gpus.visible_gpus() == {}


def test_without_a_gpu_nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.take_gpus(1) == []
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("build", "given", "expected"), [("13.0", "0", "cuda"), ("13.0", "", "cpu"), (None, "0", "cpu")]
)
def test_the_device_is_the_gpu_where_the_installed_torch_can_use_one(
    build: str | None, given: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told without importing torch: `lofit plan` takes a moment only."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise AssertionError('imported')\n")
    (tmp_path / "torch" / "version.py").write_text(f"from typing import Optional\ncuda: Optional[str] = {build!r}\n")
    env = os.environ | {"PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": given}
    script = "from lofit.cluster.gpus import default_device; print(default_device())"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (expected, "")
