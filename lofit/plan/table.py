"""The run table: a configuration expanded to one row per node, with ids and paths.

This is the only fan-out.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from lofit import localizers, methods
from lofit.config import Config, TaskConfig, grid
from lofit.config.experiments import RANDOM
from lofit.config.methods import searches_lr
from lofit.config.recipes import resolve
from lofit.errors import ConfigError
from lofit.experiments import ArmConfig, ExperimentConfig
from lofit.plan.nodes import (
    ActivationsNode,
    DataNode,
    EffectsNode,
    EvalNode,
    ExperimentRun,
    FitNode,
    LocalizeNode,
    ModelNode,
    Node,
    PlantedRun,
    PlantNode,
    TunedNode,
)
from lofit.spec.base import HeadsConfig, MethodConfig, SearchConfig
from lofit.spec.protocol import paper

ALL, MAIN, TRANSFER = "all", "main", "transfer"
"""Parts of the results that are collected, beside those of the experiments; see :meth:`RunTable.part`."""

N = TypeVar("N", bound=Node)


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
        extensions=tuple(map(change, fit.extensions)),
        leader=fit.leader or fit,
    )


def _unique(nodes: Iterable[N]) -> dict[str, N]:
    return {node.id: node for node in nodes}


class RunTable:
    """All nodes of a configuration, each once, and where their files are."""

    def __init__(
        self,
        config: Config,
        keep: Callable[[Node], bool] = lambda node: True,
        drawn: Path | None = None,
        note: str = "",
    ) -> None:
        """Expand a configuration.

        Args:
            config: the configuration.
            keep: whether an evaluation, or a node on planted heads, is part of the table; by default, all are. Runs
                without an evaluation on their own task are left out.
            drawn: folder of collected scores, tables, figures and the page; default: ``results``.
            note: what is said of this table in the titles of what is drawn.
        """
        self.config, self.keep, self.drawn, self.note = config, keep, drawn or config.results, note
        self.comparison: dict[str, FitNode] = {}  # retention, which asks what is in it, comes later
        self.comparison = _unique(filter(self._is_kept, self._comparison()))
        self.transfers = _unique(filter(self._is_kept, self._transfer()))
        kinds = {name: config.experiment(name).kind for name in config.experiments}
        self.experiments = {
            name: [run for run in self._experiment(name) if self._is_kept(run.fit)]
            for name, kind in kinds.items()
            if kind != "planted"
        }
        self.planted = {
            name: [
                replace(run, fit=run.fit if run.fit and keep(run.fit) else None)
                for run in self._planted(name)
                if keep(run.plant) and keep(run.ranking)
            ]
            for name, kind in kinds.items()
            if kind == "planted"
        }
        scored = self.comparison | self.transfers
        for arms in self.experiments.values():
            scored |= {arm.fit.id: arm.fit for arm in arms}
        tuned = [fit for fit in scored.values() if isinstance(fit, TunedNode)]
        self.tuned = _unique([*(fit.leader for fit in tuned if fit.leader), *tuned])
        made = _unique(node for fit in self.tuned.values() if not fit.leader for node in fit.candidates)
        self.fits = made | self.tuned | scored
        rankings = [ranking for fit in self.tuned.values() for ranking in fit.rankings]
        self.head_rankings = _unique([*rankings, *(fit.ranking for fit in self.fits.values() if fit.ranking)])
        on_planted = [run for runs in self.planted.values() for run in runs]
        self.plants = _unique(run.plant for run in on_planted)
        self.effects = _unique(plant.data for plant in self.plants.values())
        self.fits |= _unique(run.fit for run in on_planted if run.fit)
        fits = list(self.fits.values())
        self.localize = self.head_rankings | _unique(run.ranking for run in on_planted)
        users: list[LocalizeNode | FitNode] = [*self.localize.values(), *fits]
        self.activations = _unique(node for node in map(self.activations_of, users) if node)
        self.evaluations = _unique(found for fit in scored.values() for found in self.evaluations_of(fit))
        reading = [*users, *self.evaluations.values(), *self.effects.values()]
        self.data = _unique(node.data for node in reading if isinstance(node.data, DataNode))
        self.models = _unique(map(self._model, config.all_models))

    @cached_property
    def fitted(self) -> dict[str, FitNode]:
        """The fits that have something to fit and are not the best of others."""
        own = {id: node for id, node in self.fits.items() if id not in self.tuned}
        return {id: node for id, node in own.items() if methods.load_method(node.method).fit}

    def folds(self, task: str) -> list[int]:
        """Configured folds of a task."""
        return self._folds(task, self.config.tasks[task])

    def _folds(self, task: str, entry: TaskConfig | None) -> list[int]:
        return list(entry.folds if entry and entry.folds else self.config.task(task).folds)

    def _data(self, task: str, fold: int, seed: int) -> DataNode:
        return self._data_of(task, self.config.tasks[task], fold, seed)

    def _data_of(self, task: str, entry: TaskConfig | None, fold: int, seed: int) -> DataNode:
        entry = entry or TaskConfig()
        options = self.config.task(task).Options.model_validate(entry.options)
        path = str(entry.path) if entry.path else None
        read = entry.read.model_dump(mode="json", exclude_defaults=True) if entry.read else None
        chat = None if self.config.task(task).plain_text else self.config.chat
        return DataNode(task, fold, seed, options.model_dump(mode="json"), path, read=read, chat=chat)

    def _is_kept(self, fit: FitNode) -> bool:
        return any(node.own for node in self.evaluations_of(fit))

    def evaluations_of(self, fit: FitNode) -> Iterable[EvalNode]:
        """On what a fitted method is scored, of what is kept."""
        return filter(self.keep, self._scored_on(fit))

    def _scored_on(self, fit: FitNode) -> Iterable[EvalNode]:
        """On what a fitted method is scored: its own task under every protocol, and what is to be retained.

        The latter is asked of the configured methods only, not of runs that an experiment adds, nor of prompting, which
        is the base model there. A task with several folds shares its questions among them, so a method fitted on one of
        them, or with heads ranked on one, is scored on the test items of that one alone. What nothing is fitted for is
        scored on another task once, and not for every split. Under which protocols a method is scored, it says itself.
        """
        method = methods.load_method(fit.method)
        for protocol in self.config.protocols:
            assert isinstance(fit.data, DataNode), "runs on planted heads are not scored"
            if self.config.task(fit.data.task).headline_under(protocol) and method.scored_under(protocol):
                yield EvalNode(fit, fit.data, protocol, self.config.backend)
        if fit.id not in self.comparison or method.shots:
            return
        for task, entry in self.config.retention.items():
            if task == fit.data.task or not scores_task(fit.method, task):
                continue
            first = next(name for name in self.config.tasks if name != task)
            if not method.fit and (fit.data.task, fit.data.fold) != (first, self.folds(first)[0]):
                continue
            ranked = fit.ranking.data if fit.ranking and fit.ranking.data.task == task else None
            for fold in self._folds(task, entry):
                if not ranked or fold == ranked.fold:
                    data = self._data_of(task, entry, fold, 0)
                    yield EvalNode(fit, data, paper(bool(data.chat)), self.config.backend)

    def _model(self, name: str) -> ModelNode:
        return ModelNode(name, self._source(name))

    def _source(self, model: str) -> dict[str, Any]:
        return self.config.model_entry(model).source.model_dump(mode="json")

    def _ranking(self, model: str, data: DataNode | PlantNode, method: str, entry: MethodConfig) -> LocalizeNode:
        heads = entry.heads or HeadsConfig()
        name = heads.localizer or methods.load_method(method).localizer
        assert name is not None, f"{method} edits no selected heads"
        params = self.localizer_params(name, model, data.task, heads.params)
        return LocalizeNode(model, self._source(model), self.config.dtype_of(model), data, name, params)

    def localizer_params(self, name: str, model: str, task: str, overrides: dict[str, Any]) -> BaseModel:
        """The hyperparameters of a localizer for a model and task."""
        form, shared = localizers.load_localizer(name).Params, self.config.shared_params
        return form.model_validate(resolve(localizers.recipe(name), form, model, task, shared, overrides))

    def localizer_of(self, method: str) -> str:
        """The localizer of a configured method that edits selected heads: the configured one, or its own."""
        heads = self._entry(method).heads or HeadsConfig()
        name = heads.localizer or methods.load_method(method).localizer
        assert name is not None, f"{method} edits no selected heads"
        return name

    def _entry(self, method: str) -> MethodConfig:
        return self.config.methods[method] or MethodConfig()

    def activations_of(self, node: LocalizeNode | FitNode) -> ActivationsNode | None:
        """The activations a node reads; None if it reads none."""
        if isinstance(node, LocalizeNode):
            used = localizers.load_localizer(node.localizer).uses_activations
        else:
            used = methods.load_method(node.method).uses_activations
        return ActivationsNode(node.model, node.model_source, node.dtype, node.data) if used else None

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
        return FitNode(model, self._source(model), dtype, data, name, params, ranking, k, bottom=bottom)

    def _params(self, model: str, data: DataNode | PlantNode, name: str, entry: MethodConfig) -> Any:
        form, shared = methods.load_method(name).Params, self.config.shared_params
        return form.model_validate(resolve(methods.recipe(name), form, model, data.task, shared, entry.params))

    def _comparison(self) -> Iterable[FitNode]:
        """Every method on every task, with heads selected on the same split."""
        for model in self.config.models:
            for task in self.config.tasks:
                for fold in self.folds(task):
                    for seed in self.config.seeds:
                        yield from self._methods(model, self._data(task, fold, seed))

    def _methods(self, model: str, data: DataNode) -> Iterable[FitNode]:
        for name in self.config.methods:
            yield from self._runs(model, data, name, self._entry(name))

    def _runs(self, model: str, data: DataNode, name: str, entry: MethodConfig) -> Iterable[FitNode]:
        """The runs of one method on one split: one per number of heads, unless it chooses that itself."""
        method = methods.load_method(name)
        if not method.seeded and data.seed != self.config.seeds[0]:
            return  # every seed scores the same test items
        if not scores_task(name, data.task):
            return
        first = self.config.seeds[0]
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
        further: list[MethodConfig] = []
        if entry.search:
            settings = grid.settings(entry, entry.search, self.config.search_points)
        else:
            assert self.config.lr_grid
            search = grid.lr_search(self._params(model, data, name, entry).lr, self.config.lr_grid)
            settings = grid.settings(entry, search, None)
            ends = SearchConfig(params={"lr": list(grid.beyond(search.params["lr"]))})
            further = [setting for _, setting in grid.settings(entry, ends, None)]
        runs = [list(self._plain_runs(model, data, name, setting)) for _, setting in settings]
        extensions = [list(self._plain_runs(model, data, name, setting)) for setting in further]
        for number, tried in enumerate(zip(*runs, strict=True)):
            shared = {at.name: getattr(tried[0], at.name) for at in fields(FitNode)}
            shared["k"] = tuple(sorted({k for node in tried for k in node.k}))
            yield TunedNode(
                **shared,
                candidates=tried,
                points=tuple(point for point, _ in settings),
                select_by=self.config.select_by,
                extensions=tuple(fits[number] for fits in extensions),
            )

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

    def _experiment(self, name: str) -> Iterable[ExperimentRun]:
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

    def _planted(self, name: str) -> Iterable[PlantedRun]:
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
                data = self._data_of(task, sized, self.folds(task)[0], self.config.seeds[0])
                source, dtype = self._source(model), self.config.dtype_of(model)
                plant = PlantNode(EffectsNode(model, source, dtype, data, damage, chosen.tokens), k, draw, targets)
                for label, arm in (spec.arms or {}).items():
                    heads = (arm.heads or HeadsConfig()).model_copy(update={"k": [k]})
                    [fit] = self._plain_runs(model, plant, arm.method, MethodConfig(heads=heads, params=arm.params))
                    assert fit.ranking
                    yield PlantedRun(label, fit.ranking, fit if label in (chosen.fitted or [label]) else None)

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
                yield place, entry.model_copy(update={"heads": heads}), self._data(task, fold, seed)
        elif spec.n_train:
            for n in spec.n_train:
                sized = task_entry.model_copy(update={"options": {**task_entry.options, "n_train": n}})
                yield n, entry, self._data_of(task, sized, fold, seed)
        else:
            yield None, entry, self._data(task, fold, seed)

    def _head_data(self, data: DataNode, task: str) -> DataNode:
        """The split of ``task`` on which heads for ``data`` are ranked: of the same fold where it has one."""
        if task == data.task:
            return data
        fold = data.fold if data.fold in self.folds(task) else self.folds(task)[0]
        return self._data(task, fold, data.seed)

    def _transfer(self) -> Iterable[FitNode]:
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
                        data = self._data(task, fold, seed)
                        (own,) = self._runs(model, data, transfer.method, entry)
                        chosen = [(self._head_data(data, source), entry) for source in names]
                        for head_data, by in [*chosen, *([(data, random)] if transfer.random_row else [])]:
                            ranking = self._ranking(model, head_data, transfer.method, by)
                            yield own if ranking == own.ranking else _like(own, partial(replace, ranking=ranking))

    def scores_validation(self, fit: FitNode) -> bool:
        """Whether a fit computes the headline metric on the validation rows, beside the loss."""
        if isinstance(fit.data, PlantNode):
            return False  # nobody knows the right answers
        return self.scores_every_epoch(fit) or self.chooses_by_metric(fit)

    def scores_every_epoch(self, fit: FitNode) -> bool:
        """Whether it does so after every epoch, and not at the end alone."""
        return self.config.training.validate_by == "metric" or getattr(fit.params, "keep", "last") == "best"

    def chooses_by_metric(self, fit: FitNode) -> bool:
        """Whether something is chosen by the headline metric of a fit on the validation rows."""
        return getattr(fit.params, "keep", "last") == "best" or fit.id in self._chosen_from_by_metric

    @cached_property
    def _chosen_from_by_metric(self) -> set[str]:
        by_metric = (node for node in self.tuned.values() if node.select_by == "metric" and not node.leader)
        return {fit.id for node in by_metric for fit, _ in node.settings}

    def head_counts(self) -> dict[str, list[int]]:
        """Model to the numbers of heads that any of its runs on tasks may edit, ascending."""
        return {
            model: sorted(
                {
                    k
                    for node in self.fits.values()
                    if node.model == model and isinstance(node.data, DataNode)
                    for k in node.k
                }
            )
            for model in self.config.models
        }

    def find(self, nodes: Mapping[str, N], identifier: str) -> N:
        """The node that is called ``identifier``: by its id, by the path of its folder, or by a part that no other has.

        Raises:
            ConfigError: the configuration has no such node, or several.
        """
        if identifier in nodes:
            return nodes[identifier]
        path = Path(identifier).absolute()
        found = [id for id, node in nodes.items() if identifier in id or path == self.folder(node).absolute()]
        if len(found) == 1:
            return nodes[found[0]]
        if found:
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            raise ConfigError(
                f"'{identifier}' is part of {len(found)} ids: {', '.join(found[:5])}{more}; give one whole"
            )
        near = difflib.get_close_matches(identifier, nodes, n=1)
        raise ConfigError(
            f"no node '{identifier}' in this configuration; "
            + (f"did you mean '{near[0]}'? " if near else "")
            + "`lofit plan --verbose` lists the fits, `snakemake -n` all nodes"
        )

    def folder(self, node: Node) -> Path:
        """Where a node's files are."""
        where, below = node.FOLDER
        root: Path = getattr(self.config, where)
        return root / below / node.id

    def model_dir(self, model: str) -> Path:
        """A plain transformers folder; its name holds a hash of where the model comes from."""
        return self.folder(self._model(model))

    def parts(self) -> list[str]:
        """The parts of the results that :meth:`part` knows."""
        return [ALL, MAIN, *([TRANSFER] if self.config.transfer else []), *self.experiments]

    def part(self, name: str) -> dict[str, EvalNode]:
        """The evaluations that one output is made of, so that it needs no other.

        Args:
            name: :data:`ALL`, :data:`MAIN` (the configured methods, for the main tables and what else compares them),
                :data:`TRANSFER`, or an experiment.
        """
        if name == ALL:
            return self.evaluations
        if name == MAIN:
            return _unique(found for fit in self.comparison.values() for found in self.evaluations_of(fit))
        fits = self.transfers if name == TRANSFER else _unique(arm.fit for arm in self.experiments[name])
        own = [found for fit in fits.values() for found in self.evaluations_of(fit) if found.own]
        return _unique(found for found in own if found.protocol == self.config.protocols[0])

    def own_evaluation(self, fit: FitNode) -> EvalNode:
        """The evaluation of a fitted method on its own task, under the first configured protocol."""
        return next(node for node in self.evaluations_of(fit) if node.own)

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
                "selector": node.selector,
                "head_task": node.ranking.data.task if node.ranking else None,
                "k": "|".join(map(str, node.k)) or None,
            }
            for node in self.fits.values()
        ]
