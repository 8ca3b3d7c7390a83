"""GPUs of its own for every node on a machine that has any: Snakemake counts GPUs, but hands out no ids."""

from __future__ import annotations

import fcntl
import importlib.util
import itertools
import os
import random
import re
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

POLL_SECONDS = 1.0
VISIBLE = "CUDA_VISIBLE_DEVICES"
QUERY = ("nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader")


def default_device() -> Literal["cpu", "cuda"]:
    """What ``device: auto`` is on this machine: the GPU if there is one and torch is built for it. Imports no torch."""
    spec = importlib.util.find_spec("torch")
    assert spec and spec.origin
    build = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    return "cuda" if build.get("cuda") and visible_gpus() else "cpu"


def visible_gpus() -> dict[str, str]:
    """The GPUs that this process may use, found without initialising CUDA; none without a driver.

    Those of ``CUDA_VISIBLE_DEVICES`` where it is set, as SLURM does for its jobs, else what ``nvidia-smi`` lists.

    Returns:
        the name of each for CUDA, with its UUID. The name is its index, since vLLM takes no UUIDs. What
        ``nvidia-smi`` does not list, such as a part of a GPU (MIG), has the given id for both.
    """
    given = os.environ.get(VISIBLE)
    if given is None:
        return _listed()
    ids = (device.strip() for device in given.split(","))
    asked = list(itertools.takewhile(lambda device: re.fullmatch(r"\d+|(GPU|MIG)-.+", device), ids))  # as CUDA reads it
    listed = _listed() if asked else {}
    found = {}
    for device in asked:
        name = next((i for i, uuid in listed.items() if i == device or uuid.startswith(device)), device)
        found[name] = listed.get(name, device)
    return found


def _listed() -> dict[str, str]:
    """Index to UUID of what ``nvidia-smi`` lists, which in a job of SLURM are the GPUs of that job alone."""
    try:
        listed = subprocess.run(QUERY, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(re.findall(r"^(\d+), (GPU-\S+)$", listed, re.MULTILINE))


def lock_folder() -> Path:
    """Where the processes of a user agree on who has which GPU: a folder of this machine, so never on a share."""
    return Path(tempfile.gettempdir()) / f"lofit-gpus-{os.getuid()}"


def take_gpus(count: int) -> list[str]:
    """Take GPUs for this process, until it ends, and make them the only ones that CUDA shows it.

    To be called before torch is imported. Waits for as long as too few are free: each is given back when its holder
    ends, however it ends. What is waited for is said once, on stderr.

    Args:
        count: how many of the :func:`visible_gpus`; all of them if there are fewer.

    Returns:
        what CUDA calls those that were taken; none on a machine without.
    """
    gpus = visible_gpus()
    if not gpus:
        return []
    count = min(count, len(gpus))
    folder = lock_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    files = {name: folder / f"{uuid.replace('/', '_')}.lock" for name, uuid in gpus.items()}
    told = False
    while not (taken := _lock(files, count)):
        if not told:
            print(
                f"waiting for {count} of the GPUs {', '.join(gpus)}, held by {_holders(files.values())}; "
                f"with --resources gpu={len(gpus)} Snakemake starts no more nodes than there are GPUs for",
                file=sys.stderr,
                flush=True,
            )
            told = True
        time.sleep(
            POLL_SECONDS * (1 + random.random())
        )  # two that each hold half of what they want must not meet again
    given = os.environ.get(VISIBLE, "")
    if not set(taken) <= {device.strip() for device in given.split(",")}:
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # these are indices of nvidia-smi, which counts in this order
    os.environ[VISIBLE] = ",".join(taken)
    print(f"GPU {', '.join(taken)}", file=sys.stderr, flush=True)
    return taken


def _lock(files: Mapping[str, Path], count: int) -> list[str]:
    """Lock the first ``count`` devices that are free, or none. The files stay open for as long as the process lives."""
    taken: dict[str, int] = {}
    for device, file in files.items():
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        taken[device] = handle
        if len(taken) == count:
            for handle in taken.values():
                os.truncate(handle, 0)
                os.pwrite(handle, str(os.getpid()).encode(), 0)  # for who waits, to be read by people
            return list(taken)
    for handle in taken.values():
        os.close(handle)
    return []


def _holders(files: Iterable[Path]) -> str:
    pids = {file.read_text() for file in files if file.exists()}
    alive = sorted(pid for pid in pids if pid and Path("/proc", pid).exists())
    return f"process {', '.join(alive)}" if alive else "another process"
