"""GPUs that are pretended, behind torch's own functions, so that its checks of arguments stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.cuda._utils import _get_device_index


@dataclass
class Gpus:
    """Bytes of some GPUs, and what torch's allocator was told of each.

    Attributes:
        totals: in all.
        free: of these, as the driver says.
        reserved: by this process.
        shares: GPU and share that torch may allocate, in the order in which they were set.
    """

    totals: Sequence[float]
    free: Sequence[float] = ()
    reserved: Sequence[float] = ()
    shares: list[tuple[int, float]] = field(default_factory=list)

    def show(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let torch find these GPUs; what it asks of the driver is answered here."""

        def properties(device: Any = None) -> SimpleNamespace:
            return SimpleNamespace(total_memory=self.totals[_get_device_index(device, optional=True)])

        def reserved(device: Any = None) -> float:
            return self.reserved[_get_device_index(device, optional=True)]

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(self.totals))
        monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
        monkeypatch.setattr(torch.cuda, "memory_reserved", reserved)
        monkeypatch.setattr(torch.cuda, "cudart", lambda: SimpleNamespace(cudaMemGetInfo=self.info))
        monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
        shares = self.shares  # a build of torch for CPUs lacks these two
        monkeypatch.setattr(torch._C, "_cuda_setMemoryFraction", lambda s, i: shares.append((i, s)), raising=False)
        monkeypatch.setattr(torch._C, "_cuda_getMemoryFraction", lambda i: dict(shares).get(i, 1.0), raising=False)

    def info(self, gpu: int) -> tuple[float, float]:
        """Free and total bytes."""
        if not self.free:
            raise torch.AcceleratorError("CUDA error: out of memory")
        return self.free[gpu], self.totals[gpu]
