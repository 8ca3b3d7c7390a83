"""Checks of the experiments and of the transfer heat map in a configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from lofit import methods, registry
from lofit.config.form import Config, TransferConfig
from lofit.config.messages import repeated
from lofit.config.methods import head_count_problems, one_method_problems
from lofit.config.tasks import scored_under
from lofit.experiments import UNSCORED, ArmConfig, ExperimentConfig, builtin_names
from lofit.spec.base import HeadsConfig, MethodConfig
from lofit.spec.protocol import Protocol, table_name

_EXISTS = "outputs of that name exist already; give it another name"
_OTHERS = ("all", *map(table_name, get_args(Protocol)), "costs", "heads", "suite", "strata", "expected", "report")
TAKEN = dict.fromkeys(_OTHERS, _EXISTS) | {
    "transfer": "write it as `transfer:`, beside `experiments:`",
    "retention": "write it as `retention:`, beside `experiments:`, with tasks to be scored",
    "disturbance": "made wherever `retention:` names tasks; remove it",
    "overlap": "always made where there are two rankings of heads; remove it",
    "search": "a `search:` belongs to a method or an arm; its table is made wherever there is one",
}
"""Names that an experiment cannot have, because other results, tables or figures have them, and what to do instead."""
RANDOM = "random"
"""The localizer of the random heads with which transfer is compared."""
OUT_OF_DOMAIN = "ood"
"""A common name for the LoFiT paper's Table 5."""


def experiment_problems(config: Config) -> Iterator[str]:
    """Yield what is wrong with the experiments: their names, axes, seeds, tasks and arms."""
    for name in config.experiments:
        key = f"experiments.{name}"
        spec = config.experiment(name)
        if name in TAKEN:
            yield f"{key}: {TAKEN[name]}"
            continue
        if spec.like and spec.like not in builtin_names():
            yield f"{key}.like: {registry.unknown('experiment', spec.like, builtin_names())}"
            continue
        if spec.kind is None and name == OUT_OF_DOMAIN:
            yield f"{key}: what fitting costs on other tasks is asked for by naming them under `retention:`"
            continue
        if spec.kind is None:
            yield (
                f"{key}: not one of the package's ({', '.join(builtin_names())}); "
                "give its kind and arms, or one that it is like, or correct the name"
            )
            continue
        if not spec.arms:
            yield f"{key}.arms: nothing to compare; give at least one"
            continue
        yield from _axis_problems(config, spec, key)
        yield from _variance_problems(config, spec, key)
        yield from _seed_problems(config, spec.seeds, f"{key}.seeds")
        yield from _planted_problems(config, spec, key)
        for task in spec.tasks or []:
            if task not in config.tasks:
                yield f"{key}.tasks: {registry.unknown('task', task, config.tasks)}"
        if spec.primary and spec.primary not in spec.arms:
            yield f"{key}.primary: {registry.unknown('arm', spec.primary, spec.arms)}"
        for label, arm in spec.arms.items():
            yield from _arm_problems(config, spec, arm, f"{key}.arms.{label}")
        if spec.kind not in UNSCORED:
            yield from _score_problems(config, spec.tasks, f"{key}.tasks")


def _score_problems(config: Config, names: list[str] | None, key: str) -> Iterator[str]:
    """Yield a problem if no task in ``names`` (None: all tasks) has scores under the first protocol, which is used."""
    first, known = config.protocols[0], [name for name in names or config.tasks if name in config.tasks]
    if known and not scored_under(config, first, known):
        yield f"{key}: none of them is scored under '{first}', the first of the protocols; put another one first"


def _seed_problems(config: Config, seeds: list[int] | None, key: str) -> Iterator[str]:
    """Yield a problem unless seeds are configured ones, with the first, with which all runs that have no seed."""
    for seed in seeds or []:
        if seed not in config.seeds:
            yield f"{key}: {seed} is not among the configured seeds ({', '.join(map(str, config.seeds))}); add it there"
    if seeds and config.seeds[0] not in seeds:
        yield f"{key}: the first configured seed, {config.seeds[0]}, is missing; add it"


def _axis_problems(config: Config, spec: ExperimentConfig, key: str) -> Iterator[str]:
    axes = [axis for axis in ("k", "n_train") if getattr(spec, axis)]
    if spec.kind == "curve" and len(axes) != 1:
        yield f"{key}: a curve runs over k or over n_train; give one of them"
    if spec.kind != "curve" and axes:
        yield f"{key}.{axes[0]}: only a curve runs over it; set kind to curve, or remove the key"
    for axis in axes:
        if (twice := repeated(getattr(spec, axis))) is not None:
            yield f"{key}.{axis}: {twice} is given twice; remove one"
    if spec.k:
        yield from head_count_problems(config, spec.k, f"{key}.k")


def _variance_problems(config: Config, spec: ExperimentConfig, key: str) -> Iterator[str]:
    if spec.kind != "variance":
        if spec.training_seeds:
            yield f"{key}.training_seeds: only an experiment of kind variance has them; remove the key"
        return
    for place, seeds in ((f"{key}.training_seeds", spec.training_seeds or config.seeds), ("seeds", config.seeds)):
        if len(set(seeds)) < 2:
            yield f"{place}: the spread over seeds needs two of them; give more"
        if (twice := repeated(seeds)) is not None:
            yield f"{place}: '{twice}' is given twice; remove one"
    for label, arm in (spec.arms or {}).items():
        if arm.search:
            yield f"{key}.arms.{label}.search: one setting is run with all seeds; remove the key"
        if arm.method in methods.method_names() and not methods.load_method(arm.method).seeded:
            yield f"{key}.arms.{label}.method: {arm.method} does not depend on a seed; choose another"


def _planted_problems(config: Config, spec: ExperimentConfig, key: str) -> Iterator[str]:
    if not spec.planted or spec.kind != "planted":
        if spec.planted:
            yield f"{key}.planted: only an experiment of kind planted has it; remove the key"
        elif spec.kind == "planted":
            yield f"{key}.planted: says how heads are damaged; give it, or `like: planted`"
        return
    key = f"{key}.planted"
    yield from head_count_problems(config, list(spec.planted.k), f"{key}.k")
    if any((damage.kind, damage.strength) == ("scale", 1) for damage in spec.planted.damages):
        yield f"{key}.damages: a factor of 1 damages nothing; give another"
    for axis in ("damages", "k", "n_train", "targets"):
        if (twice := repeated([str(value) for value in getattr(spec.planted, axis)])) is not None:
            yield f"{key}.{axis}: {twice} is given twice; remove one"
    for arm in spec.planted.fitted or []:
        if arm not in (spec.arms or {}):
            yield f"{key}.fitted: {registry.unknown('arm', arm, spec.arms or {})}"


def _arm_problems(config: Config, spec: ExperimentConfig, arm: ArmConfig, key: str) -> Iterator[str]:
    if arm.method not in methods.method_names():
        yield f"{key}.method: {registry.unknown_module('method', methods.__name__, arm.method)}"
        return
    method = methods.load_method(arm.method)
    yield from one_method_problems(config, arm.method, arm, key, planted=spec.kind == "planted")
    if spec.kind == "planted":
        if not method.localizer or method.chooses_k:
            yield f"{key}.method: '{arm.method}' does not edit a given number of selected heads; choose lofit"
        if arm.search:
            yield f"{key}.search: one setting is run on planted heads; remove the key"
        return
    if not method.scored_under(first := config.protocols[0]):
        yield f"{key}.method: '{arm.method}' is not scored under '{first}'; put another protocol first"
    if (spec.k or spec.kind in UNSCORED) and not method.localizer:
        yield f"{key}.method: '{arm.method}' does not select heads; choose lofit"
    if spec.kind == "layers" and arm.search:
        yield f"{key}.search: this experiment shows one ranking; remove the key"
    searched_k = bool(arm.search and arm.search.k)
    if searched_k and spec.k:
        yield f"{key}.search.k: the curve runs over it; remove the key"
    several = len((arm.heads or HeadsConfig()).k) > 1 and not searched_k
    if method.localizer and not method.chooses_k and not spec.k and several:
        yield f"{key}.heads.k: an arm is one run per task and seed; give one number of heads"


def transfer_problems(config: Config, transfer: TransferConfig) -> Iterator[str]:
    """Yield what is wrong with the transfer heat map."""
    if transfer.method not in config.methods:
        yield f"transfer.method: '{transfer.method}' is not among the configured methods; add it under methods"
    elif not (method := methods.load_method(transfer.method)).localizer or method.chooses_k:
        yield f"transfer.method: '{transfer.method}' does not edit a given number of selected heads; choose lofit"
    elif (heads := (config.methods[transfer.method] or MethodConfig()).heads) and heads.bottom:
        yield f"transfer.method: '{transfer.method}' edits the heads that are ranked last; remove its bottom"
    elif transfer.random_row and heads and heads.localizer == RANDOM:
        yield f"transfer.random_row: the heads of '{transfer.method}' are random anyway; set it to false"
    for task in transfer.tasks or []:
        if task not in config.tasks:
            yield f"transfer.tasks: {registry.unknown('task', task, config.tasks)}"
    yield from _seed_problems(config, transfer.seeds, "transfer.seeds")
    yield from _score_problems(config, transfer.tasks, "transfer.tasks")
    yield from head_count_problems(config, [transfer.k], "transfer.k")
