"""Limits on the time and memory of one node; a node that exceeds them becomes a failed run and stops no other node."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from typing import Any

import torch

from lofit.config import LimitsConfig
from lofit.errors import FitError
from lofit.models.loading import pick_device
from lofit.models.memory import check_no_other_gpu_processes, out_of_memory

GB = 1e9
AGAIN = 5.0
"""Seconds after which a node that is still running is stopped again, since an exception in a destructor is lost."""


@contextlib.contextmanager
def limited(limits: LimitsConfig, device: str) -> Iterator[None]:
    """Apply the configured limits on wall time and memory within this context. Works in the main thread only.

    Memory is what the process itself allocates: on CPU the heap (``RLIMIT_DATA``; memory-mapped files, such as weights
    being read, do not count), on each GPU what torch allocates. A long call into C code is stopped when it returns.

    Args:
        limits: the configured limits; None in a field means no limit.
        device: the configured device of the model.

    Raises:
        FitError: the node exceeded a limit.
        LofitError: a GPU ran out of memory while other processes held some of it.
    """
    with contextlib.ExitStack() as stack:
        if limits.minutes is not None:
            stack.enter_context(_time_limit(limits.minutes))
        if limits.memory_gb is not None:
            stack.enter_context(_memory_limit(limits.memory_gb, pick_device(device)))
        yield


@contextlib.contextmanager
def _time_limit(minutes: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise FitError(f"took longer than limits.minutes: {minutes:g}; raise it, or give the run less to do")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes, AGAIN)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:  # also reached if the timer fires within the inner finally
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _memory_limit(gigabytes: float, device: torch.device) -> Iterator[None]:
    with _gpu_memory(gigabytes) if device.type == "cuda" else _host_memory(gigabytes):
        try:
            yield
        except Exception as error:
            if reason := out_of_memory(error):
                check_no_other_gpu_processes(error)
                text = f"{reason}; more than limits.memory_gb: {gigabytes:g}, raise it or lower the batch size"
                raise FitError(text) from None
            raise


@contextlib.contextmanager
def _host_memory(gigabytes: float) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = int(gigabytes * GB)
    known = [limit for limit in (wanted, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(known), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@contextlib.contextmanager
def _gpu_memory(gigabytes: float) -> Iterator[None]:
    totals = [torch.cuda.get_device_properties(gpu).total_memory for gpu in range(torch.cuda.device_count())]
    for gpu, total in enumerate(totals):
        torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * GB / total), gpu)
    try:
        yield
    finally:
        for gpu in range(len(totals)):
            torch.cuda.set_per_process_memory_fraction(1.0, gpu)
