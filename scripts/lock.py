#!/usr/bin/env python3
"""Regenerate requirements/cpu-linux.lock and environment.yml from pyproject.toml (``make lock``).

Pins already in the lock are kept where pyproject still admits them; ``--upgrade`` takes the newest.
Resolves with pip-compile in a throw-away environment, so it needs only the standard library. torch must
resolve to a CPU build: give its index with ``--torch-index`` where pip does not already find one.

Each pin carries the SHA-256 of every archive that pip would take for it on Linux, by processor and Python version, as
pip itself reports them; for torch those of the package index too, whose builds are for CUDA.
"""

from __future__ import annotations

import argparse
import json
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

PYTHONS = ("3.11", "3.12")
PROCESSORS = ("x86_64", "aarch64")
TAGS = ("linux", "manylinux1", "manylinux2010", "manylinux2014", *(f"manylinux_2_{minor}" for minor in range(5, 40)))

LOCK_HEADER = """\
# Exact versions for CPU Linux, resolved for Python 3.11: runtime, test and dev dependencies of pyproject.toml,
# each with the SHA-256 of its archives; `make setup` installs nothing else.
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


def compile_lock(work: Path, torch_index: str | None, upgrade: bool) -> str:
    """Resolve pyproject.toml and return the lock's text without hashes, torch without its local version.

    Args:
        work: folder with a virtual environment ``venv``.
        torch_index: package index that holds CPU builds of torch.
        upgrade: whether to take the newest versions.
    """
    binaries = work / "venv" / "bin"
    subprocess.run([binaries / "python", "-m", "pip", "install", "--quiet", PIP_TOOLS], check=True)
    output = work / "lock.txt"
    if LOCK.exists() and not upgrade:
        output.write_text(without_hashes(LOCK.read_text()))
    command: list[str | Path] = [binaries / "pip-compile", "--quiet", "--no-header", "--strip-extras"]
    command += ["--allow-unsafe", "--no-emit-index-url", "--no-emit-find-links", "--no-emit-trusted-host"]
    command += ["--extra", "test", "--extra", "dev", "--output-file", output, "pyproject.toml"]
    if torch_index:
        command += ["--extra-index-url", torch_index]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONNOUSERSITE": "1"})
    return re.sub(r"(?m)^(torch==[^+\s]+)\+\S+", r"\1", output.read_text()).lstrip()


def without_hashes(lock: str) -> str:
    """The lock's text with its versions alone."""
    return re.sub(r" \\\n +--hash=\S+", "", lock)


def with_hashes(lock: str, found: dict[str, set[str]]) -> str:
    """The lock's text with the hashes of each distribution after its version."""

    def pinned(match: re.Match[str]) -> str:
        hashes = sorted(found[normalised(match[1])])
        return match[0] + "".join(f" \\\n    --hash=sha256:{digest}" for digest in hashes)

    return re.sub(r"(?m)^([A-Za-z0-9][A-Za-z0-9._-]*)==\S+", pinned, lock)


def normalised(name: str) -> str:
    """The form in which names of distributions are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def archive_hashes(work: Path, pins: dict[str, str], torch_index: str | None) -> dict[str, set[str]]:
    """Map each distribution to the SHA-256 of the archives that pip would take for it.

    Args:
        work: folder with a virtual environment ``venv``.
        pins: distribution to version.
        torch_index: package index that holds CPU builds of torch.
    """
    found: dict[str, set[str]] = {name: set() for name in pins}
    extra = ["--extra-index-url", torch_index] if torch_index else []
    built_here = _report(work, pins, extra, found)
    wheels = {name: version for name, version in pins.items() if name not in built_here}
    for python in PYTHONS:
        for processor in PROCESSORS:
            platform = [part for tag in TAGS for part in ("--platform", f"{tag}_{processor}")]
            platform += ["--python-version", python, "--only-binary=:all:", "--target", str(work / "nowhere")]
            if (python, processor) != (PYTHONS[0], "x86_64"):
                _report(work, wheels, [*platform, *extra], found)
            official = [*platform, "--isolated", "--index-url", "https://pypi.org/simple"]
            _report(work, {"torch": pins["torch"]}, official, found)
    if unknown := sorted(name for name, hashes in found.items() if not hashes):
        sys.exit(f"error: pip finds no archive of {', '.join(unknown)}; check its index settings and the network")
    return found


def _report(work: Path, pins: dict[str, str], options: list[str], found: dict[str, set[str]]) -> set[str]:
    """Add to ``found`` what pip would install; returns what has no wheel. What pip does not find is passed over."""
    left, report = dict(pins), work / "report.json"
    command = [work / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    while left:
        wanted = [f"{name}=={version}" for name, version in left.items()]
        done = subprocess.run(
            [*command, "--no-deps", "--report", report, *options, *wanted], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            break
        missing = re.search(r"No matching distribution found for ([A-Za-z0-9._-]+?)==", done.stderr)
        if missing is None:
            sys.exit(f"error: pip cannot find the archives: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        del left[normalised(missing[1])]
    sources = set()
    for entry in json.loads(report.read_text())["install"] if left else []:
        name, archive = normalised(entry["metadata"]["name"]), entry["download_info"]
        found[name].add(archive["archive_info"]["hashes"]["sha256"])
        if not archive["url"].endswith(".whl"):
            sources.add(name)
    return sources


def parse_pins(lock: str) -> dict[str, str]:
    """Map each normalised distribution name in the lock to its version."""
    pins = re.findall(r"(?m)^([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)", lock)
    return {normalised(name): version for name, version in pins}


def environment_text(pins: dict[str, str]) -> str:
    """Return environment.yml: every direct runtime and test dependency at its locked version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = []
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        name, extras = re.match(r"([A-Za-z0-9._-]+)(\[[^\]]*\])?", requirement).groups(default="")
        lines.append(f"      - {name}{extras}=={pins[normalised(name)]}\n")
    return ENVIRONMENT_HEADER + "".join(lines)


def main() -> None:
    """Write both files, or stop with one line saying why not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-index", default=None, help="package index that holds CPU builds of torch")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions pyproject.toml admits")
    arguments = parser.parse_args()
    if sys.platform != "linux" or sys.version_info[:2] != (3, 11):
        sys.exit("error: the lock is for Linux and Python 3.11; run `make lock PYTHON=python3.11` on Linux")
    with tempfile.TemporaryDirectory(prefix="lofit-lock-") as folder:
        work = Path(folder)
        venv.create(work / "venv", with_pip=True)
        lock = compile_lock(work, arguments.torch_index, arguments.upgrade)
        pins = parse_pins(lock)
        if gpu := sorted(name for name in pins if GPU_PACKAGE.match(name)):
            sys.exit(
                f"error: torch resolved to a CUDA build ({', '.join(gpu[:3])}, ...); "
                "run `make lock TORCH_INDEX=https://download.pytorch.org/whl/cpu`"
            )
        lock = with_hashes(lock, archive_hashes(work, pins, arguments.torch_index))
    LOCK.write_text(LOCK_HEADER + "\n" + lock)
    ENVIRONMENT.write_text(environment_text(pins))


if __name__ == "__main__":
    main()
