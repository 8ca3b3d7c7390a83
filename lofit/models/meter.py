"""Cost of a node: wall time, memory, and the environment in which it ran."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import torch

import lofit
from lofit.files import short_hash
from lofit.models.loading import precision_of

PACKAGES = ("torch", "transformers", "peft", "lm_eval", "datasets", "scikit-learn", "numpy")


class Meter:
    """Measures the wall time and memory of a piece of work; call :meth:`sample` once per step.

    Memory is in bytes. On GPU, a sample is the largest amount allocated since the last sample, summed over all GPUs.
    On CPU, a sample is the resident set size of the process at that moment, and the peak is that of the whole process,
    model loading included (``getrusage``): it is what the machine must have.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpus = range(torch.cuda.device_count()) if device.type == "cuda" else range(0)
        self._process = psutil.Process()
        self._samples: list[int] = []
        self.forget()
        self._start = time.perf_counter()

    def forget(self) -> None:
        """Exclude the GPU memory used until now from the next sample."""
        for gpu in self._gpus:
            torch.cuda.reset_peak_memory_stats(gpu)

    def sample(self) -> None:
        """Record the memory in use."""
        held = sum(torch.cuda.max_memory_allocated(gpu) for gpu in self._gpus)
        self._samples.append(held if self._gpus else self._process.memory_info().rss)
        self.forget()

    def seconds(self) -> float:
        """Return the seconds since the meter was created; waits for pending GPU work."""
        for gpu in self._gpus:
            torch.cuda.synchronize(gpu)
        return time.perf_counter() - self._start

    def report(self) -> dict[str, Any]:
        """Return ``seconds``, ``peak_memory_bytes`` and ``p99_memory_bytes``, the 99th percentile of the samples."""
        seconds = self.seconds()
        self.sample()
        samples = torch.tensor(self._samples, dtype=torch.float64)
        highest = int(samples.max())
        if not self._gpus:
            highest = max(highest, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return {
            "seconds": seconds,
            "peak_memory_bytes": highest,
            "p99_memory_bytes": int(samples.quantile(0.99)),
        }


def environment(model: Any) -> dict[str, Any]:
    """Return device and precision of a model, package versions, and the commit of this checkout (None outside one)."""
    device: torch.device = model.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "dtype": precision_of(model),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": {"lofit": lofit.__version__} | {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_commit": _own_commit(),
    }


@functools.cache
def _own_commit() -> str | None:
    return commit_of(Path(lofit.__file__).parents[1])


def commit_of(checkout: Path) -> str | None:
    """Return the commit of ``checkout`` if it is the root of a git work tree; another project's commit would mislead.

    If tracked files differ from the commit, ``-dirty-`` and a short hash of the diff are appended.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True, errors="replace", check=True).stdout

    try:
        top, commit = git("rev-parse", "--show-toplevel", "HEAD").splitlines()
        if Path(top) != checkout.resolve():
            return None
        changed = git("diff-index", "-p", "--binary", "--no-ext-diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None  # git is not installed, or this is no work tree
    return f"{commit}-dirty-{short_hash(changed)}" if changed else commit
