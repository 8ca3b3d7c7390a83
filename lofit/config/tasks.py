"""Checks of the tasks in a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from lofit import registry, tasks
from lofit.config.form import Config, TaskConfig
from lofit.config.messages import all_lines, repeated
from lofit.errors import TaskError
from lofit.spec.protocol import OPEN, Protocol, in_chat, paper, scoring
from lofit.tasks.sizes import too_many


def task_problems(config: Config) -> Iterator[str]:
    """Yield what is wrong with names, folds, options and protocols under ``tasks`` and ``retention``."""
    named = [("tasks", *entry) for entry in config.tasks.items()]
    named += [("retention", *entry) for entry in config.retention.items()]
    found = [
        problem
        for key, name, entry in named
        for problem in _one_task_problems(f"{key}.{name}", name, entry or TaskConfig(), to_train=key == "tasks")
    ]
    yield from found
    if found:
        return
    for name in [name for name in config.retention if name in config.tasks]:
        yield from _same_task_problems(name, config.retention[name] or TaskConfig(), config.tasks[name] or TaskConfig())
    if len(set(map(in_chat, config.protocols))) > 1:
        yield "protocols: methods are fitted with the chat template or without; put those with -chat in another file"
    if config.system and not config.chat:
        yield "system: read under protocols with -chat only; add -chat to the protocols, or remove the key"
    if config.judges and OPEN not in map(scoring, config.protocols):
        yield "judges: they read open answers only; add 'open' to protocols, or remove the key"
    for name in config.tasks:
        if not any(config.task(name).headline_under(protocol) for protocol in config.protocols):
            yield f"protocols: {name} is scored under '{paper(bool(config.chat))}' only; add it, or remove the task"
    for protocol in config.protocols:
        if not scored_under(config, protocol, config.tasks):
            hint = "add truthfulqa, or remove it" if scoring(protocol) == OPEN else "remove it, or add a task that is"
            yield f"protocols: none of the tasks is scored under '{protocol}'; {hint}"
    for key in ("suite", "retention"):
        if getattr(config, key) and "base" not in config.methods:
            yield f"{key}: differences are taken to the base model; add 'base' to methods, or remove the key"
    for name in config.suite or []:
        if name not in config.tasks:
            yield f"suite: {registry.unknown('task', name, config.tasks)}"


def scored_under(config: Config, protocol: Protocol, names: Iterable[str]) -> bool:
    """Return whether any of these tasks is scored under a protocol."""
    return any(config.task(name).headline_under(protocol) for name in names)


def _one_task_problems(key: str, name: str, entry: TaskConfig, *, to_train: bool) -> Iterator[str]:
    if entry.path and name in tasks.task_names():
        yield f"{key}.path: '{name}' is a task of the package; give yours another name"
        return
    if not entry.path and name not in tasks.task_names():
        yield f"{key.split('.')[0]}: {registry.unknown('task', name, tasks.task_names())} (or give its path)"
        return
    if entry.read and not entry.path:
        yield f"{key}.read: this is a task of the package; give the path of yours, or remove the key"
        return
    try:
        task = tasks.load_task(name, entry.path, entry.read)
    except TaskError as error:
        yield f"{key}{'.path' if entry.path else ''}: {error}"
        return
    if to_train and not task.objective:
        yield f"{key}: for evaluation only; name it under retention"
    if entry.folds and (strange := sorted(set(entry.folds) - set(task.folds))):
        yield f"{key}.folds: no fold {strange[0]}; this task has {list(task.folds)}"
    if (twice := repeated(entry.folds or [])) is not None:
        yield f"{key}.folds: fold {twice} is given twice; remove one"
    try:
        options = task.Options.model_validate(entry.options)
        yield from (f"{key}.options.{option}: {problem}" for option, problem in too_many(task, options))
        if not task.plain_text:
            tasks.check_definition(options.configured(task))
    except ValidationError as error:
        yield from all_lines(error, task.Options, f"{key}.options")
    except TaskError as error:
        yield f"{key}: {error}"


def _same_task_problems(name: str, retained: TaskConfig, trained: TaskConfig) -> Iterator[str]:
    """Yield in what else than size a task under ``retention`` differs from the one of that name under ``tasks``."""
    if (retained.path, retained.read) != (trained.path, trained.read):
        yield f"retention.{name}.path: not that of tasks.{name}; give one of them another name"
        return
    Options = tasks.load_task(name, trained.path, trained.read).Options
    there, here = (Options.model_validate(entry.options) for entry in (trained, retained))
    for option in Options.WORDING:
        if getattr(here, option) != (wanted := getattr(there, option)):
            yield f"retention.{name}.options.{option}: not that of tasks.{name}; set it to {str(wanted).lower()}"
