"""A GPU of its own for every node on a machine with several: Snakemake counts GPUs, but hands out no ids."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lofit.errors import LofitError

POLL_SECONDS = 1.0
QUERY = ("nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader")

_held: dict[str, int] = {}
"""Device to the open lock file; it ends with the process, however that ends."""


def visible_gpus() -> list[str]:
    """Ids of the GPUs that this process may use, found without initialising CUDA; empty without a driver.

    Those of ``CUDA_VISIBLE_DEVICES`` where it is set, as SLURM does for its jobs, else what ``nvidia-smi`` lists.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [device.strip() for device in given.split(",") if device.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(QUERY, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listed.splitlines() if line.strip()]


def lock_folder() -> Path:
    """Where the processes of a user agree on who has which GPU: a folder of this machine, so never on a share."""
    return Path(tempfile.gettempdir()) / f"lofit-gpus-{os.getuid()}"


def take_gpu(devices: Sequence[str] | None = None, wait_seconds: float = 3600.0) -> str | None:
    """Take one GPU for this process, until it ends, and make it the only one that CUDA shows it.

    To be called before torch is imported. Waits while all are taken.

    Args:
        devices: to choose from; None: :func:`visible_gpus`.
        wait_seconds: how long to wait at most.

    Returns:
        the id that was taken; None if there is no choice to be made: fewer than two GPUs.

    Raises:
        LofitError: none became free in time.
    """
    choice = list(visible_gpus() if devices is None else devices)
    if len(choice) < 2:
        return None
    folder = lock_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    end = time.monotonic() + wait_seconds
    while True:
        for device in choice:
            if device in _held or _lock(device, folder / f"{device}.lock"):
                os.environ["CUDA_VISIBLE_DEVICES"] = device
                print(f"GPU {device}", file=sys.stderr, flush=True)
                return device
        if time.monotonic() >= end:
            raise LofitError(
                f"all {len(choice)} GPUs are taken by other nodes of this user for {wait_seconds:.0f} s; "
                f"start Snakemake with --resources gpu={len(choice)}, or look who holds the files in {folder}"
            )
        time.sleep(POLL_SECONDS)


def _lock(device: str, file: Path) -> bool:
    """Take the lock of a device, if it is free."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _held[device] = handle
        return True
    os.close(handle)
    return False
