"""Checks of the methods in a configuration: their heads, hyperparameters and searches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lofit import localizers, methods, registry
from lofit.config import grid
from lofit.config.form import Config
from lofit.config.messages import all_lines
from lofit.config.recipes import resolve
from lofit.spec.base import HeadsConfig, MethodConfig, SearchConfig


def method_problems(config: Config) -> Iterator[str]:
    """Yield what is wrong with the configured methods, which are known."""
    for name, given in config.methods.items():
        yield from one_method_problems(config, name, given or MethodConfig(), f"methods.{name}")


def shared_params_problems(config: Config) -> Iterator[str]:
    """Yield what is wrong with the hyperparameters for all methods: names that no method has, or unknown models."""
    entries = [(name, entry or MethodConfig()) for name, entry in config.methods.items()]
    for name in config.experiments:
        entries += [(arm.method, arm) for arm in (config.experiment(name).arms or {}).values()]
    forms: list[type[BaseModel]] = []
    for name, entry in entries:
        method = methods.load_method(name)
        forms.append(method.Params)
        if localizer := (entry.heads or HeadsConfig()).localizer or method.localizer:
            forms.append(localizers.load_localizer(localizer).Params)
    known = sorted({field for form in forms for field in form.model_fields})
    for number, given in enumerate(config.shared_params):
        key = f"shared_params.{number}"
        for field in given.set:
            if field not in known:
                yield f"{key}.set: {registry.unknown('hyperparameter', field, known)}"
        for what, names, configured in (("model", given.model, config.models), ("task", given.task, config.tasks)):
            for name in [names] if isinstance(names, str) else names or []:
                if name not in configured:
                    yield f"{key}.{what}: {registry.unknown(what, name, configured)}"


def one_method_problems(
    config: Config, name: str, entry: MethodConfig, key: str, planted: bool = False
) -> Iterator[str]:
    """Yield what is wrong with one method; ``key`` says where it is given.

    It may be an entry under ``methods``, an arm of an experiment, which may be one on planted heads, or one point of a
    search.
    """
    method = methods.load_method(name)
    if reason := method.skip(config.tasks, config.protocols, config.dtypes, config.backend):
        yield f"{key}: {reason}"
    if entry.heads and not method.localizer:
        yield f"{key}.heads: this method does not select heads; remove the key"
    if method.localizer:
        yield from _heads_problems(config, entry.heads or HeadsConfig(), method.localizer, f"{key}.heads", planted)
    yield from _params_problems(config, method.Params, methods.recipe(name), entry.params, f"{key}.params")
    if entry.search:
        yield from _search_problems(config, name, entry, entry.search, f"{key}.search")


def _search_problems(config: Config, name: str, entry: MethodConfig, searched: SearchConfig, key: str) -> Iterator[str]:
    method = methods.load_method(name)
    if not method.fit or method.scorer:
        yield f"{key}: {name} has no fit to choose from on validation; remove the key"
        return
    if method.chooses:
        axes = [*(f"params.{axis}" for axis in method.grid), *(["heads.k"] if method.chooses_k else [])]
        yield f"{key}: {name} chooses among {' and '.join(axes)} on validation anyway; list values there"
        return
    if grid.size(searched) < (least := config.search_points or 2):
        yield f"{key}: {grid.size(searched)} settings to choose from, at least {least} are needed; give more values"
    if grid.size(searched) > grid.MAX_SIZE:
        yield f"{key}: {grid.size(searched)} settings, more than {grid.MAX_SIZE}; give fewer values"
        return
    if searched.k and not method.localizer:
        yield f"{key}.k: {name} selects no heads; remove the key"
    if searched.localizer and not method.localizer:
        yield f"{key}.localizer: {name} selects no heads; remove the key"
    for axis in searched.axes:
        if axis.removeprefix("localizer.") in grid.UNSEARCHABLE:
            yield f"{key}.{axis}: settings cannot be compared by a loss that it changes; remove the key"
    for point, setting in grid.settings(entry, searched, None):
        where = ", ".join(f"{axis}={value}" for axis, value in point.items())
        for problem in one_method_problems(config, name, setting, f"{key} ({where})"):
            yield problem
            return


def budget_problems(config: Config) -> Iterator[str]:
    """Yield a problem if searches try different numbers of settings, or if ``lr_grid`` does not ascend.

    Methods that choose among estimates (``iti``, ``repe``) have grids of their own; tables name what is unequal.
    """
    if config.lr_grid and sorted(set(config.lr_grid)) != config.lr_grid:
        yield f"lr_grid: {config.lr_grid} does not ascend; sort it, with every factor once"
    entries = [(f"methods.{name}", name, entry or MethodConfig()) for name, entry in config.methods.items()]
    for title in config.experiments:
        arms = (config.experiment(title).arms or {}).items()
        entries += [(f"experiments.{title}.arms.{label}", arm.method, arm) for label, arm in arms]
    tried = {key: _settings_tried(config, name, entry) for key, name, entry in entries}
    chosen = {key: count for key, count in tried.items() if count > 1}
    if len(set(chosen.values())) > 1:
        (most, n), (least, m) = (pick(chosen.items(), key=lambda item: item[1]) for pick in (max, min))
        yield f"{most}: tries {n} settings and {least} {m}; make them equal (search_points, or values to choose from)"


def _settings_tried(config: Config, name: str, entry: MethodConfig) -> int:
    """Return how many fits a search chooses from; 1 if there is none."""
    if entry.search:
        return min(grid.size(entry.search), config.search_points or math.inf)  # type: ignore[return-value]
    return len(config.lr_grid) if config.lr_grid and searches_lr(name, entry) else 1


def searches_lr(name: str, entry: MethodConfig) -> bool:
    """Return whether ``lr_grid`` applies to a method: it is trained, and its configuration gives no learning rate."""
    return not entry.search and "lr" in methods.load_method(name).Params.model_fields and "lr" not in entry.params


def _heads_problems(config: Config, heads: HeadsConfig, default: str, key: str, planted: bool) -> Iterator[str]:
    name, known = heads.localizer or default, localizers.localizer_names()
    if name not in known:
        yield f"{key}.localizer: {registry.unknown_module('localizer', localizers.__name__, name)}"
        return
    if heads.task is not None and heads.task not in config.tasks:
        yield f"{key}.task: {registry.unknown('task', heads.task, config.tasks)}"
    if localizers.load_localizer(name).planted_only and not planted:
        yield f"{key}.localizer: '{name}' is for experiments of kind planted alone; choose another"
    form = localizers.load_localizer(name).Params
    yield from _params_problems(config, form, localizers.recipe(name), heads.params, f"{key}.params")
    yield from head_count_problems(config, heads.k, f"{key}.k")


def _params_problems(
    config: Config, form: type[BaseModel], recipe: Path, overrides: dict[str, Any], key: str
) -> Iterator[str]:
    for model in config.models:
        for task in config.tasks:
            try:
                form.model_validate(resolve(recipe, form, model, task, config.shared_params, overrides))
            except ValidationError as error:
                yield from all_lines(error, form, key)


def head_count_problems(config: Config, counts: list[int | float], key: str) -> Iterator[str]:
    """Yield the numbers or shares of heads in ``counts`` that exceed the heads of a configured model."""
    for k in counts:
        for model in config.models:
            entry = config.model_entry(model)
            total = entry.n_layers * entry.n_heads
            if isinstance(k, float) and k > 1:
                yield f"{key}: {k} is neither a number nor a share of the {total} heads of {model}; give one below 1"
            elif k > total:
                yield (
                    f"{key}: {k} is more than the {total} heads of {model} "
                    f"({entry.n_layers} layers x {entry.n_heads}); give a smaller number, or a share between 0 and 1"
                )
