"""The run table: every node of a configuration once, with its id and its folder."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from lofit import localizers, methods
from lofit.config import Config
from lofit.errors import ConfigError
from lofit.plan.expansion import Expansion, scores_task
from lofit.plan.nodes import ActivationsNode, DataNode, EvalNode, FitNode, LocalizeNode, Node, PlantNode, TunedNode
from lofit.spec.protocol import paper

ALL, MAIN, TRANSFER = "all", "main", "transfer"
"""Parts of the results that are collected, beside those of the experiments; see :meth:`RunTable.part`."""

N = TypeVar("N", bound=Node)


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
        self.expansion = expansion = Expansion(config)
        self.comparison: dict[str, FitNode] = {}  # retention, which asks what is in it, comes later
        self.comparison = _unique(filter(self._is_kept, expansion.comparison()))
        self.transfers = _unique(filter(self._is_kept, expansion.transfers()))
        kinds = {name: config.experiment(name).kind for name in config.experiments}
        self.experiments = {
            name: [run for run in expansion.experiment(name) if self._is_kept(run.fit)]
            for name, kind in kinds.items()
            if kind != "planted"
        }
        self.planted = {
            name: [
                replace(run, fit=run.fit if run.fit and keep(run.fit) else None)
                for run in expansion.planted(name)
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
        self.models = _unique(map(expansion.model, config.all_models))

    @cached_property
    def fitted(self) -> dict[str, FitNode]:
        """The fits that have something to fit and are not the best of others."""
        own = {id: node for id, node in self.fits.items() if id not in self.tuned}
        return {id: node for id, node in own.items() if methods.load_method(node.method).fit}

    @cached_property
    def choices(self) -> dict[str, FitNode]:
        """The fits on tasks that choose among settings on validation: searches, and methods that choose themselves."""
        on_tasks = {id: fit for id, fit in self.fits.items() if fit.select_by and isinstance(fit.data, DataNode)}
        return {id: fit for id, fit in on_tasks.items() if not (isinstance(fit, TunedNode) and fit.leader)}

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
            if not method.fit and (fit.data.task, fit.data.fold) != (first, self.expansion.folds(first)[0]):
                continue
            ranked = fit.ranking.data if fit.ranking and fit.ranking.data.task == task else None
            for fold in self.expansion.folds_of(task, entry):
                if not ranked or fold == ranked.fold:
                    data = self.expansion.data_of(task, entry, fold, 0)
                    yield EvalNode(fit, data, paper(bool(data.chat)), self.config.backend)

    def activations_of(self, node: LocalizeNode | FitNode) -> ActivationsNode | None:
        """The activations a node reads; None if it reads none."""
        if isinstance(node, LocalizeNode):
            used = localizers.load_localizer(node.localizer).uses_activations
        else:
            used = methods.load_method(node.method).uses_activations
        return ActivationsNode(node.model, node.model_source, node.dtype, node.data) if used else None

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
        by_itself = fit.select_by == "metric" or getattr(fit.params, "keep", "last") == "best"
        return by_itself or fit.id in self._chosen_from_by_metric

    @cached_property
    def _chosen_from_by_metric(self) -> set[str]:
        by_metric = (node for node in self.tuned.values() if node.select_by == "metric" and not node.leader)
        return {fit.id for node in by_metric for fit in node.candidates}

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
        return self.folder(self.expansion.model(model))

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
        """The evaluation of a fitted method on its own task, under the first protocol that it is scored under."""
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
