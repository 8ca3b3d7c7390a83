"""What fails a node, and what must not be hidden as a failure."""

from __future__ import annotations

import pytest
import torch

from lofit.errors import ConfigError, EditError, FitError, LofitError
from lofit.nodes.status import record_failure
from tests.cuda import Gpus


def test_a_node_that_ends_well_reports_what_it_was_given() -> None:
    with record_failure() as report:
        report |= {"seconds": 1.0}
    assert report.pop("start_seconds") > 0
    assert report == {"status": "ok", "reason": None, "seconds": 1.0}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FitError("loss is nan"), "loss is nan"),
        (EditError("no place for a ffn edit"), "no place for a ffn edit"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), "out of memory (CUDA out of"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory (DefaultCPU"),
        (MemoryError(), "out of memory (host)"),
        *(
            (kind(f"{text}\nmore"), f"out of memory ({text})")
            for kind, text in [
                (torch.AcceleratorError, "CUDA error: out of memory"),
                (RuntimeError, "CUDA driver error: out of memory"),
                (RuntimeError, "Triton Error [CUDA]: out of memory"),
                (RuntimeError, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
                (RuntimeError, "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
                (RuntimeError, "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
                (RuntimeError, "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
            ]
        ),
    ],
)
def test_its_own_failures_become_its_status_and_nothing_else_is_kept(error: Exception, reason: str) -> None:
    with record_failure() as report:
        report |= {"seconds": 1.0}
        raise error
    assert set(report) == {"status", "reason"}
    assert report["status"] == "failed"
    assert report["reason"].startswith(reason)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes do not match"),
        ConfigError("x"),
        KeyError("y"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448"),
        RuntimeError("row 3: 'What does CUDA error: out of memory mean?' is no number"),
        ConfigError("CUDA error: out of memory"),
    ],
)
def test_bugs_and_mistakes_of_the_user_stay_loud(error: Exception) -> None:
    with pytest.raises(type(error)), record_failure():
        raise error


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_want_of_memory_on_a_gpu_of_ones_own_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    Gpus(totals=[80e9, 80e9], free=[0.2e9, 60e9], reserved=[78.9e9, 19e9]).show(monkeypatch)
    with record_failure() as report:
        raise FULL
    assert report["reason"] == f"out of memory ({FULL})"


@pytest.mark.parametrize("error", [FULL, RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`")])
def test_want_of_memory_beside_another_process_is_none(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed run is never computed again; this one must be."""
    Gpus(totals=[80e9, 80e9], free=[70e9, 0.5e9], reserved=[9e9, 38e9]).show(monkeypatch)
    with (
        pytest.raises(LofitError, match=r"while other processes hold 40\.0 GB of the GPU; run") as raised,
        record_failure(),
    ):
        raise error
    assert not isinstance(raised.value, FitError)


def test_a_gpu_so_full_that_it_cannot_be_asked_is_none_either(monkeypatch: pytest.MonkeyPatch) -> None:
    Gpus(totals=[80e9]).show(monkeypatch)
    with pytest.raises(LofitError, match=r"^out of memory, and the GPU does not say who holds it"), record_failure():
        raise FULL


def test_the_host_is_not_taken_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    Gpus(totals=[80e9], free=[0.0], reserved=[0.0]).show(monkeypatch)
    with record_failure() as report:
        raise MemoryError
    assert report["reason"] == "out of memory (host)"
