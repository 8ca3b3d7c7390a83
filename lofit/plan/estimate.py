"""What a configuration would take, before anything is downloaded: operations, and hours at a rate."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lofit import methods
from lofit.plan.kinds import KINDS, counts
from lofit.plan.nodes import (
    ActivationsNode,
    DataNode,
    EffectsNode,
    EvalNode,
    FitNode,
    LocalizeNode,
    PlantNode,
    TunedNode,
)
from lofit.plan.table import RunTable
from lofit.sources.fetcher import Fetcher
from lofit.spec.hyperparameters import LossParams, TrainParams
from lofit.tasks import TaskOptions, load_task
from lofit.tasks.custom.table import Description
from lofit.tasks.sizes import measured, task_sizes
from lofit.tasks.splits import check_splits

RATES = {"cpu": 0.157, "cuda": 125.0}
"""Sustained TFLOP/s by configured device. CPU: 90% of the 174 GFLOP/s of matrix products of two cores, as measured for
step A (perf/results.md). GPU: 40% of the 312 TFLOP/s of an A100's datasheet, an assumption; measure your own with
``python -m perf.shapes``."""

START_SECONDS = 10
"""Of a node before it computes: config/smoke.yaml, whose nodes do little else, took 333 s for 34 nodes."""
FORKED_SECONDS = 2
"""Of a node that a server forks, on CPU: 0.1 to 0.4 s as nodes report it, the rest is Snakemake's."""
BYTES = 2
"""Per parameter, in bfloat16."""
GB_PER_SECOND = 1.0
"""At which weights are read, an assumption."""

CHARACTERS = 4
"""Of a token of English, a rule of thumb, by which custom tasks are measured."""

FORWARD = 2
"""Operations per parameter and token of a forward pass (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)."""
FROZEN = 4
"""The same with the gradients of activations alone: the weights are frozen."""
FULL = 6
"""The same with the gradients of all weights."""


ComputingNode = ActivationsNode | EffectsNode | PlantNode | LocalizeNode | FitNode | EvalNode
"""A node that runs a model."""


@dataclass
class Cost:
    """What the nodes of a kind take.

    Attributes:
        nodes: how many there are.
        operations: floating-point operations of the model.
        starting: seconds of starting Python and reading the weights.
    """

    nodes: int = 0
    operations: float = 0.0
    starting: float = 0.0

    def hours(self, tflops: float) -> float:
        """Hours on one device that sustains ``tflops`` TFLOP/s."""
        return (self.operations / (1e12 * tflops) + self.starting) / 3600


def costs(table: RunTable) -> tuple[dict[str, Cost], list[str]]:
    """What every kind of node takes; only those that run a model have operations.

    An upper estimate: nothing is subtracted for layers below the first trained one, whose outputs are kept, nor for
    prompts that items share. Attention's own products, small at these lengths, are left out.

    Returns:
        By kind of node; and the names of models and tasks whose size is not known, whose nodes count as nothing.
    """
    found = {kind: Cost(nodes) for kind, nodes in counts(table).items()}
    unknown: dict[str, None] = {}
    for kind in KINDS:
        for node in kind.nodes(table).values() if kind.runs_model else ():
            size = table.config.model_entry(node.model).billions
            known = ((node.model, size), (node.data.task, _sizes(node.data)))
            unknown.update({name: None for name, size in known if not size})
            if cost := node_cost(table, node):
                found[kind.name].operations += cost.operations
                found[kind.name].starting += cost.starting
    return found, list(unknown)


def node_cost(table: RunTable, node: ComputingNode) -> Cost | None:
    """What one node that runs a model takes; None if the size of the model or of the task is not known."""
    billions, task = table.config.model_entry(node.model).billions, _sizes(node.data)
    if not billions or not task:
        return None
    if isinstance(node, TunedNode) and (node.leader or node.extends):
        return node_cost(table, node.candidates[0])  # one fit that it makes itself; few make more
    if isinstance(node, EvalNode):
        shots = methods.load_method(node.fit.method).shots
        examples = shots(node.fit.params) * task.get("row_tokens", 0.0) if shots else 0.0
        operations = FORWARD * task["test"] * (task["item_tokens"] + examples)
    elif isinstance(node, ActivationsNode):
        operations = _reading(task)
    elif isinstance(node, TunedNode):
        operations = 0.0
    elif isinstance(node, EffectsNode):  # every head of a layer, with the layers from there on; and the layers below
        entry = table.config.model_entry(node.model)
        operations = _reading(task) + FORWARD * task["train"] * task["row_tokens"] * (
            entry.n_layers * (entry.n_heads + 1) / 2
        )
    elif isinstance(node, PlantNode):
        operations = 3 * _reading(task)
    else:
        entry = table.config.model_entry(node.model)
        operations = _training(node, task, entry.n_layers * entry.n_heads)
        if isinstance(node, FitNode) and table.scores_validation(node):
            times = _points(node)
            if isinstance(node.params, TrainParams) and table.scores_every_epoch(node):
                times = node.params.epochs + 1
            operations += FORWARD * times * task["validation"] * task["item_tokens"]
    forked = table.config.node_server and table.config.device == "cpu"
    starting = FORKED_SECONDS if forked else START_SECONDS + BYTES * billions / GB_PER_SECOND
    return Cost(1, 1e9 * billions * operations, starting)


def _reading(task: Mapping[str, float]) -> float:
    return FORWARD * (task["train"] + task["validation"]) * task["row_tokens"]


def _sizes(data: DataNode | EffectsNode | PlantNode) -> dict[str, Any] | None:
    """Rows and tokens of one split: all, or fewer rows where the configuration says so."""
    known = _of_files(data.task, data.path, json.dumps(data.read)) if data.path else task_sizes().get(data.task)
    if known is None:
        return None
    asked = {split: data.options.get(f"n_{split}") for split in ("train", "validation", "test")}
    # A number that is asked for may be more than there are under the task's defaults.
    return {**known, **{split: number for split, number in asked.items() if number}}


@cache
def _of_files(name: str, path: str, read: str) -> dict[str, Any]:
    """Rows and tokens of a custom task, whose files are here; nothing is fetched."""
    given = json.loads(read)
    task = load_task(name, Path(path), Description.model_validate(given) if given else None)
    splits = task.prepare(TaskOptions(), 0, 0, Fetcher(Path(), None))
    check_splits(task, splits)
    return measured(task, splits, lambda text: len(text) // CHARACTERS)


def _training(node: LocalizeNode | FitNode, task: Mapping[str, float], n_heads: int) -> float:
    """Operations per parameter of training with its validation, or of the grid that validation chooses from."""
    validation = FORWARD * task["validation"] * task["row_tokens"]
    if isinstance(node.params, TrainParams):
        cost = FULL if isinstance(node, FitNode) and methods.load_method(node.method).trains_base else FROZEN
        epochs = node.params.epochs
        return epochs * cost * task["train"] * task["row_tokens"] + (epochs + 1) * validation
    if isinstance(node, LocalizeNode):
        if not isinstance(node.params, LossParams):
            return 0.0  # computed from activations
        passes = n_heads if getattr(node.params, "exact", False) else 1
        return passes * FROZEN * task["train"] * task["row_tokens"]
    return _points(node) * validation if node.select_by else 0.0


def _points(node: FitNode) -> int:
    """How many settings a fit chooses from on validation; 1 if there is nothing to choose."""
    grid = methods.load_method(node.method).grid
    return math.prod(len(getattr(node.params, axis)) for axis in grid) * max(1, len(node.k))
