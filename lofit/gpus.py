"""GPUs of its own for every node on a machine with several: Snakemake counts GPUs, but hands out no ids."""

from __future__ import annotations

import fcntl
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lofit.errors import LofitError

POLL_SECONDS = 1.0
QUERY = ("nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader")


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


def take_gpus(count: int, wait_seconds: float = 3600.0) -> list[str]:
    """Take GPUs for this process, until it ends, and make them the only ones that CUDA shows it.

    To be called before torch is imported. Waits while too few are free.

    Args:
        count: how many of the :func:`visible_gpus`.
        wait_seconds: how long to wait at most.

    Returns:
        the ids that were taken; none if there is no choice to be made, since there are no more than ``count``.

    Raises:
        LofitError: not enough became free in time.
    """
    choice = visible_gpus()
    if len(choice) <= count:
        return []
    folder = lock_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    end = time.monotonic() + wait_seconds
    while not (taken := _lock(choice, count, folder)):
        if time.monotonic() >= end:
            raise LofitError(
                f"{count} of {len(choice)} GPUs wanted, and not so many became free in {wait_seconds:.0f} s; "
                f"set device: cuda and start Snakemake with --resources gpu={len(choice)}, or look who holds the files "
                f"in {folder}"
            )
        time.sleep(
            POLL_SECONDS * (1 + random.random())
        )  # two that each hold half of what they want must not meet again
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
    print(f"GPU {', '.join(taken)}", file=sys.stderr, flush=True)
    return taken


def _lock(devices: Sequence[str], count: int, folder: Path) -> list[str]:
    """Lock the first ``count`` devices that are free, or none. The files stay open for as long as the process lives."""
    taken: dict[str, int] = {}
    for device in devices:
        handle = os.open(folder / f"{device}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        taken[device] = handle
        if len(taken) == count:
            return list(taken)
    for handle in taken.values():
        os.close(handle)
    return []
