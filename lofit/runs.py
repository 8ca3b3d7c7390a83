"""The run table: a configuration expanded to one row per node, with ids and paths.

This is the only fan-out. A node's path carries model, task, fold, seed and method; the rest of what
determines its result is in a short hash of its identity, which stands in full in ``run.json`` beside the outputs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from lofit import localize, methods, tasks
from lofit.config import LOCALIZERS, METHODS, Config, HeadsConfig, MethodConfig, TaskConfig
from lofit.errors import ConfigError
from lofit.recipes import resolve

DTYPES = {"cpu": "float32", "cuda": "bfloat16", "auto": "auto"}
"""Precision of the base model by configured device, where the configuration leaves it open."""


def short_hash(identity: Any) -> str:
    """First 8 hexadecimal digits of the SHA-256 of the canonical JSON of ``identity``."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:8]


class Identified:
    """A node whose identity is its fields: together they determine its files."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The fields as plain data, as JSON would give them back; nodes among them as their own identities."""
        return {entry.name: _plain(getattr(self, entry.name)) for entry in fields(self)}  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    if isinstance(value, Identified):
        return value.identity
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class DataNode(Identified):
    """The split of one task for one fold and seed."""

    task: str
    fold: int
    seed: int
    options: dict[str, Any]

    @cached_property
    def id(self) -> str:
        """Path of the node below ``resources/tasks``."""
        return f"{self.task}/fold{self.fold}/seed{self.seed}-{short_hash(self.identity)}"


@dataclass(frozen=True)
class ActivationsNode(Identified):
    """Activations of a model on the right and wrong answers of one split."""

    model: str
    model_source: dict[str, Any]
    dtype: str
    data: DataNode

    @cached_property
    def id(self) -> str:
        """Path of the node below ``results/activations``."""
        data = self.data
        return f"{self.model}/{data.task}/fold{data.fold}/seed{data.seed}-{short_hash(self.identity)}"


@dataclass(frozen=True)
class LocalizeNode(Identified):
    """A ranking of all heads of a model on one task."""

    model: str
    model_source: dict[str, Any]
    dtype: str
    data: DataNode
    localizer: str
    params: dict[str, Any]

    @cached_property
    def id(self) -> str:
        """Path of the node below ``results/localize``."""
        data = self.data
        return f"{self.model}/{data.task}/fold{data.fold}/seed{data.seed}/{self.localizer}-{short_hash(self.identity)}"


@dataclass(frozen=True)
class FitNode(Identified):
    """One fitted method: the unit of comparison.

    ``k`` is the number of heads it edits, or the numbers it chooses from on validation; empty without selected heads.
    """

    model: str
    model_source: dict[str, Any]
    dtype: str
    data: DataNode
    method: str
    params: dict[str, Any]
    heads_from: LocalizeNode | None
    k: tuple[int, ...]

    @cached_property
    def id(self) -> str:
        """Path of the node below ``results/runs``."""
        data = self.data
        return f"{self.model}/{data.task}/fold{data.fold}/seed{data.seed}/{self.method}-{short_hash(self.identity)}"

    @property
    def seed(self) -> int:
        """Seed of training, and of the draw of the training subset."""
        return self.data.seed


Node = TypeVar("Node", DataNode, ActivationsNode, LocalizeNode, FitNode)


def _unique(nodes: Iterable[Node]) -> dict[str, Node]:
    return {node.id: node for node in nodes}


class RunTable:
    """All nodes of a configuration, each once, and where their files are."""

    def __init__(self, config: Config) -> None:
        self.config = config
        fits = [*self._comparison(), *self._transfer()]
        self.fits = _unique(fits)
        self.localize = _unique(fit.heads_from for fit in fits if fit.heads_from)
        users: list[LocalizeNode | FitNode] = [*self.localize.values(), *fits]
        self.activations = _unique(node for node in map(self.activations_of, users) if node)
        self.data = _unique(node.data for node in users)

    def folds(self, task: str) -> list[int]:
        """Configured folds of a task."""
        entry = self.config.tasks[task]
        return list(entry.folds if entry and entry.folds else tasks.load_task(task).folds)

    def _data(self, task: str, fold: int, seed: int) -> DataNode:
        options = tasks.load_task(task).Options.model_validate((self.config.tasks[task] or TaskConfig()).options)
        return DataNode(task, fold, seed, options.model_dump(mode="json"))

    @cached_property
    def _dtype(self) -> str:
        """Precision of the base, ``auto`` only where device is too: then it is up to the machine."""
        config = self.config
        return config.dtype if config.dtype != "auto" else DTYPES[config.device]

    def _source(self, model: str) -> dict[str, Any]:
        return self.config.model_entry(model).source.model_dump(mode="json")

    def _ranking(self, model: str, data: DataNode, method: str) -> LocalizeNode:
        name = self.localizer_of(method)
        values = resolve(LOCALIZERS / f"{name}.yaml", model, data.task, self._heads(method).params)
        params = localize.load_localizer(name).Params.model_validate(values).model_dump(mode="json")
        return LocalizeNode(model, self._source(model), self._dtype, data, name, params)

    def localizer_of(self, method: str) -> str:
        """The localizer of a method that edits selected heads: the configured one, or its own."""
        name = self._heads(method).localizer or methods.load_method(method).localizer
        assert name is not None, f"{method} edits no selected heads"
        return name

    def _heads(self, method: str) -> HeadsConfig:
        return (self.config.methods[method] or MethodConfig()).heads or HeadsConfig()

    def activations_of(self, node: LocalizeNode | FitNode) -> ActivationsNode | None:
        """The activations a node reads; None if it reads none."""
        if isinstance(node, LocalizeNode):
            used = localize.load_localizer(node.localizer).uses_activations
        else:
            used = methods.load_method(node.method).uses_activations
        return ActivationsNode(node.model, node.model_source, node.dtype, node.data) if used else None

    def _fit(
        self, model: str, data: DataNode, name: str, ranking: LocalizeNode | None = None, k: tuple[int, ...] = ()
    ) -> FitNode:
        entry = self.config.methods[name] or MethodConfig()
        values = resolve(METHODS / f"{name}.yaml", model, data.task, entry.params)
        params = methods.load_method(name).Params.model_validate(values).model_dump(mode="json")
        return FitNode(model, self._source(model), self._dtype, data, name, params, ranking, k)

    def _comparison(self) -> Iterable[FitNode]:
        """Every method on every task, with heads selected on the same split."""
        for model in self.config.models:
            for task in self.config.tasks:
                for fold in self.folds(task):
                    for seed in self.config.seeds:
                        yield from self._methods(model, self._data(task, fold, seed))

    def _methods(self, model: str, data: DataNode) -> Iterable[FitNode]:
        for name in self.config.methods:
            method = methods.load_method(name)
            if not method.seeded and data.seed != self.config.seeds[0]:
                continue  # every seed scores the same test items
            if method.tasks and data.task not in method.tasks:
                continue
            if not method.localizer:
                yield self._fit(model, data, name)
                continue
            heads = self._heads(name)
            ranking = self._ranking(model, self._head_data(data, heads.task or data.task), name)
            counts = sorted({self.config.head_count(model, k) for k in heads.k})
            for k in [tuple(counts)] if method.chooses_k else [(count,) for count in counts]:
                yield self._fit(model, data, name, ranking, k)

    def _head_data(self, data: DataNode, task: str) -> DataNode:
        """The split of ``task`` on which heads for ``data`` are ranked: of the same fold where it has one."""
        fold = data.fold if data.fold in self.folds(task) else self.folds(task)[0]
        return self._data(task, fold, data.seed)

    def _transfer(self) -> Iterable[FitNode]:
        """Offsets for each task on heads selected on every task (heads of the same fold where there is one)."""
        transfer = self.config.transfer
        if not transfer:
            return
        names = transfer.tasks or list(self.config.tasks)
        for model in self.config.models:
            k = (self.config.head_count(model, transfer.k),)
            for task in names:
                for fold in self.folds(task):
                    for seed in self.config.seeds:
                        data = self._data(task, fold, seed)
                        for source in names:
                            ranking = self._ranking(model, self._head_data(data, source), transfer.method)
                            yield self._fit(model, data, transfer.method, ranking, k)

    def head_counts(self) -> dict[str, list[int]]:
        """Model to the numbers of heads that any of its runs may edit, ascending."""
        return {
            model: sorted({k for node in self.fits.values() if node.model == model for k in node.k})
            for model in self.config.models
        }

    def find(self, nodes: dict[str, Node], identifier: str) -> Node:
        """The node called ``identifier``.

        Raises:
            ConfigError: the configuration has no such node.
        """
        if identifier not in nodes:
            raise ConfigError(f"no node '{identifier}' in this configuration; `lofit plan` lists them")
        return nodes[identifier]

    def model_dir(self, model: str) -> Path:
        """A plain transformers folder; its name holds a hash of where the model comes from."""
        return self.config.resources / "models" / f"{model}-{short_hash(self._source(model))}"

    def data_dir(self, node: DataNode) -> Path:
        """Folder of train, validation and test JSON lines and their manifest."""
        return self.config.resources / "tasks" / node.id

    def activations_dir(self, node: ActivationsNode) -> Path:
        """Folder of the activations."""
        return self.config.results / "activations" / node.id

    def localize_dir(self, node: LocalizeNode) -> Path:
        """Folder of the ranking."""
        return self.config.results / "localize" / node.id

    def run_dir(self, node: FitNode) -> Path:
        """Folder of the adapter, its report and its evaluations."""
        return self.config.results / "runs" / node.id

    def eval_dir(self, node: FitNode) -> Path:
        """Folder of the evaluation on the node's own task."""
        return self.run_dir(node) / "eval" / node.data.task

    def summary(self) -> list[dict[str, Any]]:
        """The run table as plain rows, for ``lofit plan`` and for people."""
        return [
            {
                "run": node.id,
                "model": node.model,
                "task": node.data.task,
                "fold": node.data.fold,
                "seed": node.seed,
                "method": node.method,
                "selector": node.heads_from.localizer if node.heads_from else None,
                "head_task": node.heads_from.data.task if node.heads_from else None,
                "k": "|".join(map(str, node.k)) or None,
            }
            for node in self.fits.values()
        ]

    def counts(self) -> dict[str, int]:
        """Number of nodes of each kind."""
        fitted = sum(methods.load_method(node.method).fit is not None for node in self.fits.values())
        return {
            "model": len(self.config.models),
            "prepare": len(self.data),
            "activations": len(self.activations),
            "localize": len(self.localize),
            "fit": fitted,
            "evaluate": len(self.fits),
        }
