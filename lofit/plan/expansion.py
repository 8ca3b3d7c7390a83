"""Expand a configuration to its runs: methods on tasks, arms of experiments, heads of one task for another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from functools import partial
from itertools import product
from typing import Any, cast

from pydantic import BaseModel

from lofit import localizers, methods
from lofit.config import Config, TaskConfig, grid
from lofit.config.experiments import RANDOM
from lofit.config.methods import searches_lr
from lofit.config.recipes import resolve
from lofit.experiments import ArmConfig, ExperimentConfig
from lofit.plan.nodes import (
    DataNode,
    EffectsNode,
    ExperimentRun,
    FitNode,
    LocalizeNode,
    ModelNode,
    PlantedRun,
    PlantNode,
    TunedNode,
)
from lofit.spec.base import HeadsConfig, MethodConfig, SearchConfig


def scores_task(method: str, task: str) -> bool:
    """Whether a method is defined for a task."""
    only = methods.load_method(method).tasks
    return not only or task in only


def _like(fit: FitNode, change: Callable[[FitNode], FitNode]) -> FitNode:
    """The same run with a change; a search is not made again, its choice is taken over."""
    if not isinstance(fit, TunedNode):
        return change(fit)
    return replace(
        cast(TunedNode, change(fit)),
        candidates=tuple(map(change, fit.candidates)),
        leader=fit.leader or fit,
    )


def _localizer(method: str, heads: HeadsConfig | None) -> str:
    name = (heads.localizer if heads else None) or methods.load_method(method).localizer
    assert name is not None, f"{method} edits no selected heads"
    return name


class Expansion:
    """The runs that a configuration asks for, as nodes; the same run can be asked for more than once."""

    def __init__(self, config: Config) -> None:
        """Expand ``config``."""
        self.config = config

    def comparison(self) -> Iterable[FitNode]:
        """Every method on every task, with heads selected on the same split."""
        for model in self.config.models:
            for task in self.config.tasks:
                for fold in self.folds(task):
                    for seed in self.config.seeds:
                        for name in self.config.methods:
                            yield from self._runs(model, self.data(task, fold, seed), name, self._entry(name))

    def transfers(self) -> Iterable[FitNode]:
        """Offsets for each task on heads selected on every task, and on random heads if that is asked for.

        Heads are of the same fold where there is one. Hyperparameters of training are searched for with the heads that
        are selected on the task itself, and taken over with the others.
        """
        transfer = self.config.transfer
        if not transfer:
            return
        names = transfer.tasks or list(self.config.tasks)
        for model in self.config.models:
            entry = self._entry(transfer.method)
            search = SearchConfig(params=entry.search.params) if entry.search and entry.search.params else None
            heads = (entry.heads or HeadsConfig()).model_copy(update={"k": [transfer.k]})
            entry = entry.model_copy(update={"heads": heads, "search": search})
            random = entry.model_copy(update={"heads": HeadsConfig(localizer=RANDOM)})
            for task in names:
                for fold in self.folds(task):
                    for seed in transfer.seeds or self.config.seeds:
                        data = self.data(task, fold, seed)
                        (own,) = self._runs(model, data, transfer.method, entry)
                        chosen = [(self._head_data(data, source), entry) for source in names]
                        for head_data, by in [*chosen, *([(data, random)] if transfer.random_row else [])]:
                            ranking = self._ranking(model, head_data, transfer.method, by)
                            yield own if ranking == own.ranking else _like(own, partial(replace, ranking=ranking))

    def experiment(self, name: str) -> Iterable[ExperimentRun]:
        """The runs of an experiment: every arm, at every point of its axis, on every task, fold and seed.

        The logit lens shows the first fold and seed alone.
        """
        spec = self.config.experiment(name)
        shown = 1 if spec.kind == "lens" else None
        for model in self.config.models:
            for task in spec.tasks or list(self.config.tasks):
                for fold in self.folds(task)[:shown]:
                    for seed in (spec.seeds or self.config.seeds)[:shown]:
                        for label, arm in (spec.arms or {}).items():
                            for x, entry, data in self._points(spec, arm, model, task, fold, seed):
                                for fit in self._runs(model, data, arm.method, entry):
                                    yield from (ExperimentRun(label, x, made) for made in self._reseeded(spec, fit))

    def planted(self, name: str) -> Iterable[PlantedRun]:
        """The runs of an experiment on planted heads: every arm on every damaged model, of the first fold and seed."""
        spec = self.config.experiment(name)
        assert spec.planted
        chosen = spec.planted
        for model, task in product(self.config.models, spec.tasks or self.config.tasks):
            entry = self.config.tasks[task] or TaskConfig()
            for damage, n, k, targets, draw in product(
                chosen.damages, chosen.n_train, chosen.k, chosen.targets, range(chosen.draws)
            ):
                options = {**entry.options, "n_train": n, "n_validation": chosen.n_validation}
                sized = entry.model_copy(update={"options": options})
                data = self.data_of(task, sized, self.folds(task)[0], self.config.seeds[0])
                source, dtype = self._source(model), self.config.dtype_of(model)
                plant = PlantNode(EffectsNode(model, source, dtype, data, damage, chosen.tokens), k, draw, targets)
                for label, arm in (spec.arms or {}).items():
                    heads = (arm.heads or HeadsConfig()).model_copy(update={"k": [k]})
                    [fit] = self._plain_runs(model, plant, arm.method, MethodConfig(heads=heads, params=arm.params))
                    assert fit.ranking
                    fitted = fit if label in (chosen.fitted or [label]) else None
                    yield PlantedRun(label, fit.ranking, fitted, fit.bottom)

    def folds(self, task: str) -> list[int]:
        """Configured folds of a task."""
        return self.folds_of(task, self.config.tasks[task])

    def folds_of(self, task: str, entry: TaskConfig | None) -> list[int]:
        """Folds of a task with this entry under ``tasks`` or ``retention``: those configured there, or all."""
        return list(entry.folds if entry and entry.folds else self.config.task(task).folds)

    def data(self, task: str, fold: int, seed: int) -> DataNode:
        """One split of a configured task."""
        return self.data_of(task, self.config.tasks[task], fold, seed)

    def data_of(self, task: str, entry: TaskConfig | None, fold: int, seed: int) -> DataNode:
        """One split of a task with this entry under ``tasks`` or ``retention``, or a changed copy of it."""
        entry = entry or TaskConfig()
        options = self.config.task(task).Options.model_validate(entry.options)
        path = str(entry.path) if entry.path else None
        record = {"summary", "licence"}  # which change nothing
        read = entry.read.model_dump(mode="json", exclude_defaults=True, exclude=record) if entry.read else None
        chat = None if self.config.task(task).plain_text else self.config.chat
        return DataNode(task, fold, seed, options.model_dump(mode="json"), path, read=read, chat=chat)

    def model(self, name: str) -> ModelNode:
        """Where a base model comes from."""
        return ModelNode(name, self._source(name))

    def localizer_params(self, name: str, model: str, task: str, overrides: dict[str, Any]) -> BaseModel:
        """The hyperparameters of a localizer for a model and task."""
        form, shared = localizers.load_localizer(name).Params, self.config.shared_params
        return form.model_validate(resolve(localizers.recipe(name), form, model, task, shared, overrides))

    def localizer_of(self, method: str) -> str:
        """The localizer of a configured method that edits selected heads: the configured one, or its own."""
        return _localizer(method, self._entry(method).heads)

    def _source(self, model: str) -> dict[str, Any]:
        return self.config.model_entry(model).source.model_dump(mode="json")

    def _ranking(self, model: str, data: DataNode | PlantNode, method: str, entry: MethodConfig) -> LocalizeNode:
        name = _localizer(method, entry.heads)
        params = self.localizer_params(name, model, data.task, entry.heads.params if entry.heads else {})
        return LocalizeNode(model, self._source(model), self.config.dtype_of(model), data, name, params)

    def _entry(self, method: str) -> MethodConfig:
        return self.config.methods[method] or MethodConfig()

    def _fit(
        self,
        model: str,
        data: DataNode | PlantNode,
        name: str,
        entry: MethodConfig,
        ranking: LocalizeNode | None = None,
        k: tuple[int, ...] = (),
    ) -> FitNode:
        params, dtype = self._params(model, data, name, entry), self.config.dtype_of(model)
        bottom = bool(ranking and entry.heads and entry.heads.bottom)
        by = self.config.select_by if methods.load_method(name).chooses else None
        if by and isinstance(data, PlantNode):
            by = "loss"  # nobody knows the right answers
        return FitNode(model, self._source(model), dtype, data, name, params, ranking, k, bottom=bottom, select_by=by)

    def _params(self, model: str, data: DataNode | PlantNode, name: str, entry: MethodConfig) -> Any:
        form, shared = methods.load_method(name).Params, self.config.shared_params
        return form.model_validate(resolve(methods.recipe(name), form, model, data.task, shared, entry.params))

    def _runs(self, model: str, data: DataNode, name: str, entry: MethodConfig) -> Iterable[FitNode]:
        """The runs of one method on one split: one per number of heads, unless it chooses that itself."""
        method = methods.load_method(name)
        first = self.config.seeds[0]
        if not method.seeded and data.seed != first:
            return  # every seed scores the same test items
        if not scores_task(name, data.task):
            return
        if entry.search or (self.config.lr_grid and searches_lr(name, entry)):
            tuned = self._tuned_runs(model, data, name, entry)
            if data.seed == first or self.config.search_seeds == "each":
                yield from tuned
            else:
                leaders = self._tuned_runs(model, replace(data, seed=first), name, entry)
                yield from (replace(run, leader=leader) for run, leader in zip(tuned, leaders, strict=True))
        else:
            yield from self._plain_runs(model, data, name, entry)

    def _tuned_runs(self, model: str, data: DataNode, name: str, entry: MethodConfig) -> Iterable[TunedNode]:
        """The searches of one method on one split, each with fits of its own."""
        if entry.search:
            settings = grid.settings(entry, entry.search, self.config.search_points)
        else:
            assert self.config.lr_grid
            search = grid.lr_search(self._params(model, data, name, entry).lr, self.config.lr_grid)
            settings = grid.settings(entry, search, None)
        runs = [list(self._plain_runs(model, data, name, setting)) for _, setting in settings]
        for tried in zip(*runs, strict=True):
            shared = {at.name: getattr(tried[0], at.name) for at in fields(FitNode)}
            shared["k"] = tuple(sorted({k for node in tried for k in node.k}))
            shared["select_by"] = self.config.select_by
            points = tuple(point for point, _ in settings)
            yield TunedNode(**shared, candidates=tried, points=points, extends=entry.search is None)

    def _plain_runs(self, model: str, data: DataNode | PlantNode, name: str, entry: MethodConfig) -> Iterable[FitNode]:
        method = methods.load_method(name)
        if not method.localizer:
            yield self._fit(model, data, name, entry)
            return
        heads = entry.heads or HeadsConfig()
        head_data = data if isinstance(data, PlantNode) else self._head_data(data, heads.task or data.task)
        ranking = self._ranking(model, head_data, name, entry)
        counts = sorted({self.config.head_count(model, k) for k in heads.k})
        for k in [tuple(counts)] if method.chooses_k else [(count,) for count in counts]:
            yield self._fit(model, data, name, entry, ranking, k)

    def _reseeded(self, spec: ExperimentConfig, fit: FitNode) -> Iterable[FitNode]:
        """The run, or one for each training seed of a ``variance`` experiment, by default the configured seeds."""
        if spec.kind != "variance":
            yield fit
            return
        for seed in spec.training_seeds or spec.seeds or self.config.seeds:
            if seed == fit.data.seed:
                yield fit
            else:

                def reseeded(node: FitNode, seed: int = seed) -> FitNode:
                    ranking = replace(node.ranking, training_seed=seed) if node.ranking else None
                    return replace(node, training_seed=seed, ranking=ranking)

                yield _like(fit, reseeded)

    def _points(
        self, spec: ExperimentConfig, arm: ArmConfig, model: str, task: str, fold: int, seed: int
    ) -> Iterable[tuple[float | None, MethodConfig, DataNode]]:
        """Places on the axis of an experiment, with what an arm is run with there."""
        entry = MethodConfig(heads=arm.heads, params=arm.params, search=arm.search)
        task_entry = self.config.tasks[task] or TaskConfig()
        if spec.k:
            for k in spec.k:
                heads = (arm.heads or HeadsConfig()).model_copy(update={"k": [k]})
                place = self.config.head_count(model, k) if spec.counts_heads else k
                yield place, entry.model_copy(update={"heads": heads}), self.data(task, fold, seed)
        elif spec.n_train:
            for n in spec.n_train:
                sized = task_entry.model_copy(update={"options": {**task_entry.options, "n_train": n}})
                yield n, entry, self.data_of(task, sized, fold, seed)
        else:
            yield None, entry, self.data(task, fold, seed)

    def _head_data(self, data: DataNode, task: str) -> DataNode:
        """The split of ``task`` on which heads for ``data`` are ranked: of the same fold where it has one."""
        if task == data.task:
            return data
        fold = data.fold if data.fold in self.folds(task) else self.folds(task)[0]
        return self.data(task, fold, data.seed)
