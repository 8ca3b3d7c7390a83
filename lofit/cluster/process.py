"""Set up a process that runs a model."""

from __future__ import annotations

import logging
import os
import sys


def set_up_computing(threads: int, *, offline: bool = True) -> None:
    """Set the number of CPU threads and deterministic algorithms, and turn off access to the hub.

    Call this before torch is imported.
    """
    os.environ.update(
        OMP_NUM_THREADS=str(threads),
        TOKENIZERS_PARALLELISM="false",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        CUBLAS_WORKSPACE_CONFIG=":4096:8",
    )
    if offline:  # models and data are local by now
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    # PEFT imports bitsandbytes if it is installed, which then warns about kernels that it did not find.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import torch

    torch.set_num_threads(threads)
    if "numpy" in sys.modules:  # a node server has imported it, with another number of threads
        from threadpoolctl import threadpool_limits

        threadpool_limits(threads, "blas")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # slow, and not needed
