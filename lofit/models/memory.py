"""Running out of memory, on GPU or host: how to tell it from other errors, and whose fault it is."""

from __future__ import annotations

import re

import torch

from lofit.errors import LofitError, brief

CONTEXT = 1.5e9
"""Bytes of a GPU that a process takes beside what torch allocates, at most: about 1 GB for the context and kernels."""
_HOST = ("not enough memory", "can't allocate memory")
_GPU = re.compile(
    r"^(CUDA|Triton Error \[CUDA\]:)( driver)?( error:)? out of memory"
    r"|\bCU[A-Z]+_STATUS_(\w+_)?ALLOC(ATION)?_FAILED\b"  # cuBLAS, cuDNN, cuSOLVER, cuSPARSE
)


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
