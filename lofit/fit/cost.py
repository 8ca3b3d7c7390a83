"""What a node cost: wall time, memory, and where it ran."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import torch

PACKAGES = ("torch", "transformers", "peft", "lm_eval", "datasets", "numpy")


class Meter:
    """Wall time and memory of a stretch of work; call :meth:`sample` once per step.

    Memory is the process's resident set on CPU and the allocator's peak on GPU, in bytes.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._process = psutil.Process()
        self._samples: list[int] = []
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._start = time.perf_counter()

    def sample(self) -> None:
        """Record the memory in use now."""
        on_gpu = self.device.type == "cuda"
        self._samples.append(
            torch.cuda.max_memory_allocated(self.device) if on_gpu else self._process.memory_info().rss
        )
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)

    def seconds(self) -> float:
        """Seconds since the meter was made, after pending GPU work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - self._start

    def report(self) -> dict[str, Any]:
        """``seconds``, ``peak_memory_bytes`` and ``p99_memory_bytes`` over the samples."""
        seconds = self.seconds()
        self.sample()
        memory = torch.tensor(self._samples, dtype=torch.float64)
        return {
            "seconds": seconds,
            "peak_memory_bytes": int(memory.max()),
            "p99_memory_bytes": int(memory.quantile(0.99)),
        }


def environment(device: torch.device) -> dict[str, Any]:
    """Device, package versions and the commit of this checkout (None outside one)."""
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_commit": commit.stdout.strip() or None,
    }
