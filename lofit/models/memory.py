"""Out-of-memory errors on GPU and host: recognize them, and find out whether other processes caused them."""

from __future__ import annotations

import re

import torch

from lofit.errors import LofitError, brief

CONTEXT = 1.5e9
"""Most bytes of a GPU that a process uses besides torch's allocations; the context and kernels take about 1 GB."""
_HOST = ("not enough memory", "can't allocate memory")
_GPU = re.compile(
    r"^(CUDA|Triton Error \[CUDA\]:)( driver)?( error:)? out of memory"
    r"|\bCU[A-Z]+_STATUS_(\w+_)?ALLOC(ATION)?_FAILED\b"  # cuBLAS, cuDNN, cuSOLVER, cuSPARSE
)


def out_of_memory(error: BaseException) -> str | None:
    """Return the reason for a failure if an error means running out of memory, on GPU or host; None otherwise."""
    if isinstance(error, MemoryError) or _on_gpu(error) or any(said in _text(error) for said in _HOST):
        return f"out of memory ({(str(error).splitlines() or ['host'])[0]})"
    return None


def _on_gpu(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or _GPU.search(_text(error)) is not None


def _text(error: BaseException) -> str:
    """Return the message of a RuntimeError, which torch raises; other errors may quote one from a failed fit."""
    return str(error) if isinstance(error, RuntimeError) else ""


def check_no_other_gpu_processes(error: BaseException) -> None:
    """If a GPU ran out of memory, check that no other process was using its memory.

    Raises:
        LofitError: other processes held GPU memory while this one was below its own limit, or the GPU cannot be
            queried. Such a failure says nothing about the node.
    """
    if not (_on_gpu(error) and torch.cuda.is_initialized()):
        return
    try:
        held = max(map(_held_by_others, range(torch.cuda.device_count())), default=0.0)
    except RuntimeError as refused:  # there is not even enough memory for the query
        raise LofitError(
            f"out of memory, and the GPU does not say who holds it ({brief(refused)}); run it again when it is free"
        ) from None
    if held > 0:
        raise LofitError(
            f"out of memory while other processes hold {held / 1e9:.1f} GB of the GPU; run it again when it is free"
        ) from None


def _held_by_others(gpu: int) -> float:
    """Return the bytes of a GPU that other processes hold; 0 if this process had reached its own limit anyway."""
    free, total = torch.cuda.mem_get_info(gpu)
    own = torch.cuda.memory_reserved(gpu)
    allowed = torch.cuda.get_per_process_memory_fraction(gpu) * total
    return total - free - own - CONTEXT if free < allowed - own else 0.0
