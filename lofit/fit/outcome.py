"""How a node ended: well, or for a reason of its own that must not stop the others."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import torch

from lofit.abandoned import STARTED
from lofit.errors import EditError, FitError, LofitError, brief

CONTEXT = 1.5e9
"""Bytes of a GPU that a process takes beside what torch allocates, at most: about 1 GB for the context and kernels."""
_HOST = ("not enough memory", "can't allocate memory")
_GPU = re.compile(
    r"^(CUDA|Triton Error \[CUDA\]:)( driver)?( error:)? out of memory"
    r"|\bCU[A-Z]+_STATUS_(\w+_)?ALLOC(ATION)?_FAILED\b"  # cuBLAS, cuDNN, cuSOLVER, cuSPARSE
)


_loaded_after: float | None = None
"""Seconds from the start of this process's node to its first loaded model."""


_IMPORTED = time.monotonic()


def _since_start() -> float:
    return time.monotonic() - float(os.environ.get(STARTED, _IMPORTED))


def ready() -> None:
    """Note that the model is loaded."""
    global _loaded_after
    if _loaded_after is None:
        _loaded_after = _since_start()


@contextlib.contextmanager
def outcome() -> Iterator[dict[str, Any]]:
    """Yield the node's report, to be filled; an impossible fit or edit, or want of memory, makes it a failed one.

    The report holds ``status`` (``ok`` or ``failed``), ``reason`` (text or None) and, of a node that ended well,
    ``start_seconds``: from its start until its model was loaded, which no other seconds count. Other errors pass
    through.

    Raises:
        LofitError: want of memory on a GPU that other processes held memory of, which says nothing of the node.
    """
    report: dict[str, Any] = {"status": "ok", "reason": None}
    begun = _since_start()
    try:
        with _memory_errors():
            yield report
            report["start_seconds"] = begun if _loaded_after is None else _loaded_after
    except (FitError, EditError) as error:
        report.clear()
        report.update(status="failed", reason=str(error))


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    """Turn running out of memory, on GPU or host, into a failure of this node alone."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if reason := out_of_memory(error):
            require_own_gpus(error)
            raise FitError(reason) from None
        raise


def out_of_memory(error: BaseException) -> str | None:
    """What an error says of memory that was wanted, on GPU or host; None if it is of another kind."""
    if isinstance(error, MemoryError) or _on_gpu(error) or any(said in _text(error) for said in _HOST):
        return f"out of memory ({(str(error).splitlines() or ['host'])[0]})"
    return None


def _on_gpu(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or _GPU.search(_text(error)) is not None


def _text(error: BaseException) -> str:
    """Of an error as torch raises it; others may quote such a text, as the evaluation of a failed fit does."""
    return str(error) if isinstance(error, RuntimeError) else ""


def require_own_gpus(error: BaseException) -> None:
    """Where the memory of a GPU did not suffice, require that no other process held some of it.

    Raises:
        LofitError: others did, and this one was still allowed to take more: that is no result of the node.
    """
    if not (_on_gpu(error) and torch.cuda.is_initialized()):
        return
    try:
        held = max(map(_held_by_others, range(torch.cuda.device_count())), default=0.0)
    except RuntimeError as refused:  # not even room to ask
        raise LofitError(
            f"out of memory, and the GPU does not say who holds it ({brief(refused)}); run it again when it is free"
        ) from None
    if held > 0:
        raise LofitError(
            f"out of memory while other processes hold {held / 1e9:.1f} GB of the GPU; run it again when it is free"
        ) from None


def _held_by_others(gpu: int) -> float:
    """Bytes of a GPU that other processes hold; 0 if this one could not have taken more anyway, by its limit."""
    free, total = torch.cuda.mem_get_info(gpu)
    own = torch.cuda.memory_reserved(gpu)
    allowed = torch.cuda.get_per_process_memory_fraction(gpu) * total
    return total - free - own - CONTEXT if free < allowed - own else 0.0
