"""What a node asks of a scheduler: memory in MB and a time limit in minutes, from the size of its model."""

from __future__ import annotations

import math
from typing import cast

from lofit.config import Config
from lofit.config.grid import MOST_BEYOND
from lofit.methods import load_method
from lofit.plan.estimate import RATES, ComputingNode, node_cost
from lofit.plan.kinds import kind_of
from lofit.plan.nodes import ActivationsNode, EvalNode, FitNode, ModelNode, Node, PlantNode, TunedNode
from lofit.plan.table import RunTable
from lofit.sources.source import PypiGgufModel
from lofit.spec.protocol import OPEN, VLLM, scoring

UNKNOWN_BILLIONS = 8.0
"""Assumed of a model whose entry does not say ``billions``: more than most that are fitted on one device."""

START_MB = 1500
"""Python with torch, transformers and lm-eval (about 600 MB), and the two Snakemakes of a SLURM job (200 MB each)."""
CUDA_MB = 2500
"""What CUDA adds to that in host memory."""
WORKING_MB = 5000
"""Times the root of the billions: activations and gradients of a batch. Measured (perf/results.md): 1.3 GB for
0.1345 billion parameters, a step of 8 x 96 tokens; they grow with layers x width, that is, about with the root."""
PREFIX_MB = 3000
"""Times the same: room for what enters the first trained layer, of 500,000 tokens."""
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "int8": 2, "nf4": 2}
"""Per parameter while weights are loaded; quantised ones pass through 16 bits."""
FULL_COPIES = 4
"""Of all weights while all are trained: themselves, gradients, two moments of AdamW."""
SAVED_BYTES = 12
"""Per trained parameter of a save point: the value and the two moments, copied to host memory in float32."""
KEPT_BYTES = 4
"""Per trained parameter of the values of the best epoch, once in host memory and once in the save point."""
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


def memory_mb(table: RunTable, node: Node, attempt: int = 1) -> int:
    """Host memory that a node asks for, in MB, times the attempt."""
    if isinstance(node, ModelNode):
        # only converting a model needs room for its weights
        converts = isinstance(table.config.model_entry(node.model).source, PypiGgufModel)
        weights = 1000 * _billions(table.config, node.model) * WEIGHT_BYTES["float32"]
        needed = LIGHT_MB + (CONVERTING_COPIES * weights if converts else 0)
    elif kind_of(node).runs_model:
        needed = _computing_mb(table, cast(ComputingNode, node))
    else:
        needed = LIGHT_MB
    return math.ceil(needed) * attempt


def _computing_mb(table: RunTable, node: ComputingNode) -> float:
    """On a GPU the weights pass through host memory, the rest stays on the GPU."""
    config, fit = table.config, node.fit if isinstance(node, EvalNode) else node
    models = [fit.model]
    if isinstance(node, EvalNode) and scoring(node.protocol) == OPEN and config.judges:
        models += [config.judges.truth, config.judges.info]  # loaded one after the other
    billions = max(_billions(config, model) for model in models)
    needed = START_MB + _copies(table, node) * 1000 * billions * WEIGHT_BYTES[fit.dtype]
    if config.device == "cuda":
        needed += CUDA_MB
    else:
        needed += WORKING_MB * math.sqrt(billions)
    if isinstance(node, FitNode) and load_method(node.method).trains_base:
        kept = KEPT_BYTES if getattr(node.params, "keep", "last") == "best" else 0
        saved = 0 if config.training.save_minutes is None else SAVED_BYTES + kept
        needed += 1000 * billions * (kept + saved)
    if not isinstance(node, EvalNode | ActivationsNode | PlantNode):
        needed += min(1000 * config.training.prefix_memory_gb, PREFIX_MB * math.sqrt(billions))
    return needed


def _copies(table: RunTable, node: ComputingNode) -> int:
    """Of the weights that are in host memory at once, at most."""
    on_gpu = table.config.device == "cuda"
    if isinstance(node, FitNode) and load_method(node.method).trains_base:
        return 2 if on_gpu else FULL_COPIES  # from the GPU, to be saved
    if isinstance(node, EvalNode) and node.backend == VLLM:
        return 2  # folded, and read by the engine
    if isinstance(node, EvalNode) and load_method(node.fit.method).trains_base and not node.own:
        return 2  # compared with the base
    return 1


def runtime_minutes(table: RunTable, node: Node, attempt: int = 1) -> int:
    """Time limit that a node asks for, in minutes, times the attempt."""
    config = table.config
    if isinstance(node, ModelNode):
        minutes = START_MINUTES + FETCHING_MINUTES * _billions(config, node.model)
    elif not kind_of(node).runs_model:
        minutes = LIGHT_MINUTES
    elif cost := node_cost(table, cast(ComputingNode, node)):
        rate = RATES[config.device]
        if config.device != "cuda":
            rate *= config.threads / 2  # measured on two
        fits = MOST_BEYOND if isinstance(node, TunedNode) and not node.leader else 1  # of which its cost is one
        minutes = START_MINUTES + MARGIN * 60 * fits * cost.hours(rate)
        if cast(ComputingNode, node).data.path:  # a custom task, whose tokens are a guess
            minutes = max(minutes, UNKNOWN_MINUTES)
    else:
        minutes = UNKNOWN_MINUTES
    return math.ceil(minutes) * attempt


def gpus(table: RunTable, node: Node) -> int:
    """GPUs that a node's model is spread over, where the configuration asks for GPUs."""
    if table.config.device != "cuda" or not kind_of(node).runs_model:
        return 0
    return table.config.model_entry(cast(ComputingNode, node).model).gpus


def _billions(config: Config, model: str) -> float:
    return config.model_entry(model).billions or UNKNOWN_BILLIONS
