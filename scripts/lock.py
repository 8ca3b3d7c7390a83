#!/usr/bin/env python3
"""Regenerate requirements/cpu-linux.lock and environment.yml from pyproject.toml (``make lock``).

Pins already in the lock are kept where pyproject still admits them; ``--upgrade`` takes the newest.
Resolves with pip-compile in a throw-away environment, so it needs only the standard library. torch must
resolve to a CPU build: give its index with ``--torch-index`` where pip does not already find one.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "cpu-linux.lock"
ENVIRONMENT = ROOT / "environment.yml"
PIP_TOOLS = "pip-tools>=7.5,<8"
GPU_PACKAGE = re.compile(r"^(nvidia-|cuda-|triton|pytorch-triton)", re.IGNORECASE)

LOCK_HEADER = """\
# Exact versions for CPU Linux, Python 3.11: runtime, test and dev dependencies of pyproject.toml.
# Generated; do not edit. Regenerate: make lock (newest versions: make lock UPGRADE=1).
# torch is the CPU build. Where pip would take a CUDA build instead, install with
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
"""

ENVIRONMENT_HEADER = """\
# Conda environment for LoFiT Bench: the direct dependencies of pyproject.toml at the versions of
# requirements/cpu-linux.lock. Generated; do not edit. Regenerate: make lock.
#   conda env create -f environment.yml && conda activate lofit && pip install --no-deps -e .
name: lofit
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def compile_lock(torch_index: str | None, upgrade: bool) -> str:
    """Resolve pyproject.toml and return the lock's text, torch without its local version."""
    with tempfile.TemporaryDirectory(prefix="lofit-lock-") as folder:
        work = Path(folder)
        venv.create(work / "venv", with_pip=True)
        binaries = work / "venv" / "bin"
        subprocess.run([binaries / "python", "-m", "pip", "install", "--quiet", PIP_TOOLS], check=True)
        output = work / "lock.txt"
        if LOCK.exists() and not upgrade:
            output.write_text(LOCK.read_text())
        command: list[str | Path] = [binaries / "pip-compile", "--quiet", "--no-header", "--strip-extras"]
        command += ["--allow-unsafe", "--no-emit-index-url", "--no-emit-find-links", "--no-emit-trusted-host"]
        command += ["--extra", "test", "--extra", "dev", "--output-file", output, "pyproject.toml"]
        if torch_index:
            command += ["--extra-index-url", torch_index]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONNOUSERSITE": "1"})
        return re.sub(r"(?m)^(torch==[^+\s]+)\+\S+", r"\1", output.read_text()).lstrip()


def parse_pins(lock: str) -> dict[str, str]:
    """Map each normalised distribution name in the lock to its version."""
    pins = re.findall(r"(?m)^([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)", lock)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins}


def environment_text(pins: dict[str, str]) -> str:
    """Return environment.yml: every direct runtime and test dependency at its locked version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = []
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        name, extras = re.match(r"([A-Za-z0-9._-]+)(\[[^\]]*\])?", requirement).groups(default="")
        lines.append(f"      - {name}{extras}=={pins[re.sub(r'[-_.]+', '-', name).lower()]}\n")
    return ENVIRONMENT_HEADER + "".join(lines)


def main() -> None:
    """Write both files, or stop with one line saying why not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-index", default=None, help="package index that holds CPU builds of torch")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions pyproject.toml admits")
    arguments = parser.parse_args()
    if sys.platform != "linux" or sys.version_info[:2] != (3, 11):
        sys.exit("error: the lock is for Linux and Python 3.11; run `make lock PYTHON=python3.11` on Linux")
    lock = compile_lock(arguments.torch_index, arguments.upgrade)
    pins = parse_pins(lock)
    if gpu := sorted(name for name in pins if GPU_PACKAGE.match(name)):
        sys.exit(
            f"error: torch resolved to a CUDA build ({', '.join(gpu[:3])}, ...); "
            "run `make lock TORCH_INDEX=https://download.pytorch.org/whl/cpu`"
        )
    LOCK.write_text(LOCK_HEADER + "\n" + lock)
    ENVIRONMENT.write_text(environment_text(pins))


if __name__ == "__main__":
    main()
