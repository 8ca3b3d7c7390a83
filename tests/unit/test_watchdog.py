from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lofit.cluster import watchdog as abandoned

COMMAND = [sys.executable, "-m", "lofit", "schema"]


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def test_a_node_ends_as_soon_as_its_snakemake_does() -> None:
    code = "from lofit.cluster.watchdog import end_with_snakemake as end; end(); print('at work', flush=True); input()"
    snakemake = sleeper()
    env = os.environ | {abandoned.VARIABLE: str(snakemake.pid)}
    node = subprocess.Popen([sys.executable, "-c", code], env=env, stdin=-1, stdout=-1, stderr=-1, text=True)
    assert node.stdout and node.stderr
    assert node.stdout.readline() == "at work\n"
    assert node.poll() is None
    snakemake.kill()
    assert node.wait(30) == 1
    assert node.stderr.read() == f"error: {abandoned.MESSAGE}\n"
    node.communicate()
    snakemake.communicate()


def test_a_node_whose_snakemake_is_gone_already_does_nothing(tmp_path: Path) -> None:
    snakemake = sleeper()
    snakemake.communicate(b"\n")
    env = os.environ | {abandoned.VARIABLE: str(snakemake.pid)}
    done = subprocess.run(COMMAND, env=env, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {abandoned.MESSAGE}\n"


def test_without_a_snakemake_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(abandoned.VARIABLE, raising=False)
    before = os.listdir("/proc/self/fd")
    abandoned.end_with_snakemake()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_kernel_or_a_python_without_process_handles_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setenv(abandoned.VARIABLE, "1")
    monkeypatch.setattr(os, "pidfd_open", missing)
    abandoned.end_with_snakemake()
    monkeypatch.delattr(os, "pidfd_open")
    abandoned.end_with_snakemake()
