#!/usr/bin/env python3
"""Regenerate requirements/cpu-linux.lock and environment.yml from pyproject.toml (``make lock``).

uv resolves for every Python that pyproject admits, in a throw-away environment, so this needs only the standard
library. Pins already in the lock are kept where pyproject still admits them; ``--upgrade`` takes the newest.

Each pin carries the SHA-256 of every archive of its version. What only the CUDA builds of torch need is left out. The
archives of torch are those of the package index, and the CPU builds of ``--torch-index``; without one, the hashes of
CPU builds that the lock has for the same version stay.
"""

from __future__ import annotations

import argparse
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
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# A pin, its hashes and the comments below it.
PIN = re.compile(r"(?m)^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^\s;+]+).*\n(?: .*\n)*")
HASHES = re.compile(r"(?: \\\n +--hash=sha256:[0-9a-f]{64})+")
CUDA = re.compile(r"nvidia-|cuda-|triton$")

LOCK_HEADER = """\
# Exact versions for CPU Linux and every Python of pyproject.toml: its runtime, test and dev dependencies, each with the
# SHA-256 of its archives; `make setup` installs nothing else, save what a CUDA build of torch needs.
# Generated; do not edit. Regenerate: make lock (newest versions: make lock UPGRADE=1).
# The package index has CUDA builds of torch for x86_64. For the CPU build, install with
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


def resolve(work: Path, torch_index: str | None, upgrade: bool) -> str:
    """Return the lock's text without its header.

    Args:
        work: empty folder to work in.
        torch_index: package index that holds CPU builds of torch.
        upgrade: whether to take the newest versions.
    """
    venv.create(work / "venv", with_pip=True)
    python = work / "venv" / "bin" / "python"
    (uv,) = [requirement for requirement in PROJECT["optional-dependencies"]["dev"] if re.match(r"uv\b", requirement)]
    subprocess.run([python, "-m", "pip", "install", "--quiet", uv], check=True)
    command: list[str | Path] = [python, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--generate-hashes"]
    command += ["--universal", "--python-version", PROJECT["requires-python"].removeprefix(">=").partition(",")[0]]

    output = work / "lock.txt"
    before = LOCK.read_text() if LOCK.exists() else ""
    if not upgrade:
        # uv would keep the hashes with the pins, and not ask for those of other Pythons.
        output.write_text(HASHES.sub("", before))
    extras = ["--extra", "test", "--extra", "dev"]
    subprocess.run([*command, *extras, "--output-file", output, "pyproject.toml"], check=True, cwd=ROOT)
    pins = {pin["name"]: pin for pin in PIN.finditer(output.read_text())}

    torch = pins["torch"]
    builds = "".join(pin[0] for pin in PIN.finditer(before) if pin.group("name", "version") == torch.groups())
    if torch_index:
        wanted = f"torch=={torch['version']}+cpu"
        build = [*command, "--no-deps", "--default-index", torch_index, "-"]
        builds = subprocess.run(build, input=wanted, check=True, stdout=subprocess.PIPE, text=True).stdout
    hashes = sorted(set(re.findall(r"--hash=\S+", torch[0] + builds)))
    blocks = {name: pin[0] for name, pin in pins.items() if not CUDA.match(name)}
    blocks["torch"] = HASHES.sub(lambda _: "".join(f" \\\n    {one}" for one in hashes), torch[0])
    return "".join(blocks.values())


def parse_pins(lock: str) -> dict[str, str]:
    """Map each distribution in the lock to its version."""
    return dict(pin.group("name", "version") for pin in PIN.finditer(lock))


def environment_text(pins: dict[str, str]) -> str:
    """Return environment.yml: every direct runtime and test dependency at its locked version."""
    lines = []
    for requirement in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]:
        name, extras = re.match(r"([A-Za-z0-9._-]+)(\[[^\]]*\])?", requirement).groups(default="")
        lines.append(f"      - {name}{extras}=={pins[name.lower()]}\n")
    return ENVIRONMENT_HEADER + "".join(lines)


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-index", default=None, help="package index that holds CPU builds of torch")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions pyproject.toml admits")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lofit-lock-") as folder:
        try:
            lock = resolve(Path(folder), arguments.torch_index, arguments.upgrade)
        except subprocess.CalledProcessError as error:
            sys.exit(f"error: {Path(error.cmd[0]).name} {' '.join(map(str, error.cmd[1:5]))} failed; see above")
    LOCK.write_text(LOCK_HEADER + "\n" + lock)
    ENVIRONMENT.write_text(environment_text(parse_pins(lock)))


if __name__ == "__main__":
    main()
