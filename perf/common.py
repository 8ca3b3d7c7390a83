"""How everything here is measured and reported."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from lofit.cli.train import fetch
from lofit.config import parse_config
from lofit.files import read_jsonl
from lofit.models.loading import load_model, load_tokenizer
from lofit.plan.table import RunTable

MODEL = "smollm2-135m"


@dataclass
class Claim:
    """One measured comparison.

    Attributes:
        what: the work, in words.
        baseline: what ours is compared with.
        measured: of ``ours`` and of ``baseline``, in every round.
        target: the least ratio that we aim at; None if this only informs.
        notes: further numbers, by name.
        unit: of what is measured.
    """

    what: str
    baseline: str
    measured: dict[str, list[float]]
    target: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    unit: str = "s"

    @property
    def ratios(self) -> list[float]:
        """Baseline over ours, round by round."""
        return [slow / fast for slow, fast in zip(self.measured["baseline"], self.measured["ours"], strict=True)]

    def line(self) -> str:
        """For people."""
        low, middle, high = spread(self.ratios)
        fast, slow = (statistics.median(self.measured[name]) for name in ("ours", "baseline"))
        aim = "" if self.target is None else f" (aim {self.target:g}x)"
        notes = "".join(f"; {name} {value}" for name, value in self.notes.items())
        return (
            f"{self.what}: {middle:.2f}x [{low:.2f}, {high:.2f}]{aim} against {self.baseline}; "
            f"{fast:.2f} {self.unit} against {slow:.2f} {self.unit}{notes}"
        )


def spread(values: list[float]) -> tuple[float, float, float]:
    """Least, median and greatest."""
    return min(values), statistics.median(values), max(values)


def in_turn(work: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Run all pieces of work in turn, ``rounds`` times, after ``warm_up`` rounds that do not count: seconds by name."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(warm_up + rounds):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(name: str, claims: list[Claim]) -> None:
    """Print the claims, and add them to the file that ``BENCH_OUT`` names."""
    for claim in claims:
        print(claim.line(), flush=True)
    if out := os.environ.get("BENCH_OUT"):
        found = [asdict(claim) | {"script": name, "ratios": claim.ratios} for claim in claims]
        Path(out).write_text(json.dumps(found), encoding="utf-8")


def set_up() -> None:
    """Two threads, or as many as ``THREADS`` says, and no network."""
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def inputs(tasks: Mapping[str, Mapping[str, Any] | None], **changes: Any) -> RunTable:
    """The run table of the benchmark model on some tasks, everything fetched and prepared.

    Args:
        tasks: by name, with options.
        **changes: of the configuration.
    """
    mirror = os.environ.get("LOFIT_DATA_MIRROR")
    raw = {
        "models": [MODEL],
        "tasks": {name: {"options": options} if options else None for name, options in tasks.items()},
        "methods": {"base": None},
        "data_mirror": mirror,
        **changes,
    }
    table = RunTable(parse_config(raw, "perf"))
    fetch(table)
    return table


def rows_of(table: RunTable, task: str, split: str, fold: int = 0) -> list[dict[str, Any]]:
    """Prepared rows of a task."""
    node = next(node for node in table.data.values() if node.task == task and node.fold == fold)
    return read_jsonl(table.folder(node) / f"{split}.jsonl")


def model_and_tokenizer(table: RunTable) -> tuple[Any, Any]:
    """The benchmark model in float32 on the CPU, and its tokenizer."""
    folder = table.model_dir(MODEL)
    return load_model(folder, torch.device("cpu"), torch.float32), load_tokenizer(folder)


def machine() -> dict[str, Any]:
    """What this was measured on."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": int(os.environ.get("THREADS", "2")),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []
