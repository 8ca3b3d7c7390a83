"""Assign GPUs to nodes: Snakemake counts GPUs but does not say which ones a node may use."""

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
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from lofit.files import private_folder

POLL_SECONDS = 1.0
VISIBLE = "CUDA_VISIBLE_DEVICES"
QUERY = ("nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader")


def default_device() -> Literal["cpu", "cuda"]:
    """Return the device that ``device: auto`` stands for on this machine, without importing torch.

    It is ``cuda`` if there is a GPU and the installed torch is a CUDA build.
    """
    spec = importlib.util.find_spec("torch")
    assert spec and spec.origin
    build = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    return "cuda" if build.get("cuda") and visible_gpus() else "cpu"


def visible_gpus() -> dict[str, str]:
    """Return the GPUs that this process may use, without initialising CUDA; none if there is no driver.

    These are the GPUs in ``CUDA_VISIBLE_DEVICES`` if it is set, as SLURM does for its jobs, and otherwise those that
    ``nvidia-smi`` lists.

    Returns:
        The name of each GPU for CUDA, mapped to its UUID. The name is the index, since vLLM does not accept UUIDs. For
        a device that ``nvidia-smi`` does not list, such as a part of a GPU (MIG), both are the given id.
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
    """Return index to UUID of the GPUs that ``nvidia-smi`` lists; in a SLURM job, these are the GPUs of that job."""
    try:
        listed = subprocess.run(QUERY, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(re.findall(r"^(\d+), (GPU-\S+)$", listed, re.MULTILINE))


def take_gpus(count: int) -> list[str]:
    """Reserve GPUs for this process until it ends, and hide all others from CUDA.

    Call this before torch is imported. It waits while too few GPUs are free, and says so once on stderr. A GPU becomes
    free when the process that holds it ends, for whatever reason.

    Args:
        count: how many of the :func:`visible_gpus` to reserve; if there are fewer, all of them, which it says.

    Returns:
        The CUDA names of the reserved GPUs; empty on a machine without GPUs.

    Raises:
        OSError: the folder of the locks is not this user's alone.
    """
    gpus = visible_gpus()
    if not gpus:
        return []
    if len(gpus) < count:
        print(f"{count} GPUs asked for, of {len(gpus)} here: using all", file=sys.stderr, flush=True)
        count = len(gpus)
    folder = private_folder("lofit-gpus")
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
        )  # random, so that two processes that each locked some of the GPUs do not collide again
    given = os.environ.get(VISIBLE, "")
    if not set(taken) <= {device.strip() for device in given.split(",")}:
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order of the indices that nvidia-smi shows
    os.environ[VISIBLE] = ",".join(taken)
    print(f"GPU {', '.join(taken)}", file=sys.stderr, flush=True)
    return taken


def _lock(files: Mapping[str, Path], count: int) -> list[str]:
    """Lock the first ``count`` free devices, or none if fewer are free; the files stay open until the process ends."""
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
                os.pwrite(handle, str(os.getpid()).encode(), 0)  # for the message of processes that wait
            return list(taken)
    for handle in taken.values():
        os.close(handle)
    return []


def _holders(files: Iterable[Path]) -> str:
    pids = {file.read_text() for file in files if file.exists()}
    alive = sorted(pid for pid in pids if pid and Path("/proc", pid).exists())
    return f"process {', '.join(alive)}" if alive else "another process"
