"""Benchmark tasks: every folder with a ``prepare.py`` is a task; there is no list to extend.

A task folder holds ``prepare.py`` (which defines ``TASK``, and ``Options`` if it has its own), ``task.yaml`` (the
lm-eval task ``lofit_<name>``), ``utils.py`` if the YAML needs functions, and a README with the source of each choice.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lofit import registry
from lofit.errors import TaskError, brief
from lofit.files import atomic_path, write_json, write_jsonl
from lofit.tasks.splits import Draw, check_splits, draw_splits
from lofit.tasks.task import Splits, Task, TaskOptions

if TYPE_CHECKING:
    from lofit.sources.fetcher import Fetcher
    from lofit.tasks.custom.table import Description

__all__ = [
    "Splits",
    "Task",
    "TaskOptions",
    "check_definition",
    "drawn_splits",
    "lm_eval_config",
    "load_task",
    "prepare_task",
    "task_folder",
    "task_names",
]


def task_names() -> tuple[str, ...]:
    """Return the names of all tasks, sorted, without importing them."""
    return tuple(_task_folders(tuple(__path__)))


@cache
def _task_folders(places: tuple[str, ...]) -> dict[str, Path]:
    """Tasks by name, in the folders of the package and of plugins."""
    found = {path.parent.name: path.parent for place in places for path in Path(place).glob("*/prepare.py")}
    return dict(sorted(found.items()))


def task_folder(name: str) -> Path:
    """Return the folder of task ``name``.

    Raises:
        TaskError: there is no such task.
    """
    if name not in task_names():
        raise TaskError(f"unknown task {name!r}; known tasks: {', '.join(task_names())}")
    return _task_folders(tuple(__path__))[name]


def load_task(name: str, path: Path | None = None, read: Description | None = None) -> Task:
    """Import ``lofit.tasks.<name>.prepare`` and return its TASK, or read a custom task from ``path``, as ``read`` says.

    Raises:
        TaskError: there is no such task, or ``path`` holds none.
        ConfigError: the task's module is damaged.
    """
    if path is not None:
        from lofit.tasks.custom import custom_task

        return custom_task(name, path, read)
    task_folder(name)
    return registry.load(f"{__name__}.{name}", "prepare", "TASK", Task)


class _Definition(yaml.SafeLoader):
    """Reads lm-eval's YAML without importing functions: ``!function`` tags yield their names."""


_Definition.add_constructor("!function", lambda loader, node: node.value)


def check_definition(task: Task) -> None:
    """Check the lm-eval definitions of a task without importing the functions that they name.

    Raises:
        TaskError: a file is missing, is no YAML mapping, or names a function that its module does not define.
    """
    for file in filter(None, (_definition(task), task.open_definition)):
        if not file.is_file():
            raise TaskError(f"{file} is not there; write it, as the task's neighbours have one")
        try:
            text = file.read_text(encoding="utf-8")
            given = _Definition(text).get_single_data()
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise TaskError(f"{file}: not valid YAML ({brief(error)}); correct it") from None
        if not isinstance(given, dict):
            raise TaskError(f"{file}: expected a mapping of lm-eval's keys, found {type(given).__name__}; correct it")
        for module, name in re.findall(r"!function +(\w+)\.(\w+)", text):
            source = file.with_name(f"{module}.py")
            if not source.is_file() or not re.search(
                rf"^(def|from .*) {name}\b", source.read_text(encoding="utf-8"), re.M
            ):
                raise TaskError(f"{file} names {module}.{name}, which {source} does not define; write it")


def _definition(task: Task) -> Path:
    """Return the path of a task's lm-eval definition."""
    return task.definition or task_folder(task.name) / "task.yaml"


def lm_eval_config(task: Task, definition: Path | None = None) -> dict[str, Any]:
    """Return the lm-eval configuration of a task, called ``lofit_<name>``, from ``definition`` or its ``task.yaml``.

    The rows are not part of it; :class:`lofit.evaluation.harness.RowsTask` gets them separately.
    """
    from lm_eval.tasks.manager import load_yaml

    loaded: dict[str, Any] = load_yaml(definition or _definition(task))
    return loaded | dict(task.overrides) | {"task": f"lofit_{task.name}"}


def drawn_splits(
    task: Task, options: TaskOptions, fold: int, seed: int, fetcher: Fetcher
) -> tuple[Splits, dict[str, Draw]]:
    """Return all rows of one task and fold, checked, and those that are drawn of each split.

    Raises:
        TaskError: the fold is unknown, rows are malformed or too few, ids are repeated, or splits overlap although the
            options forbid it.
        SourceError: the data cannot be fetched.
    """
    if fold not in task.folds:
        raise TaskError(f"task {task.name}: no fold {fold}; choose from {', '.join(map(str, task.folds))}")
    splits = task.prepare(options, fold, seed, fetcher)
    check_splits(task, splits)
    draws = draw_splits(task, options, seed, splits)
    for split, drawn in draws.items():
        if task.objective and not drawn.indices:
            raise TaskError(
                f"task {task.name}: every {split} row shares its {task.overlap_key} with a later split, so none is "
                "left; give others, or set overlap to keep"
            )
    return splits, draws


def prepare_task(task: Task, options: TaskOptions, fold: int, seed: int, fetcher: Fetcher, destination: Path) -> None:
    """Write the splits of one task, fold and seed to a folder, atomically.

    The folder holds ``train.jsonl``, ``validation.jsonl``, ``test.jsonl`` and ``manifest.json`` (options, counts,
    drawn indices, ids of rows left out because they overlap with a later split, provenance, sha256 of the three files).

    Raises:
        LofitError: as of :func:`drawn_splits`.
    """
    known = len(fetcher.provenance)
    splits, draws = drawn_splits(task, options, fold, seed, fetcher)
    with atomic_path(destination) as part:
        part.mkdir()
        counts, digests, excluded, indices = {}, {}, {}, {}
        for split, drawn in draws.items():
            available = getattr(splits, split)
            file = part / f"{split}.jsonl"
            write_jsonl(file, [available[i] for i in drawn.indices])
            counts[split] = {"available": len(available), "kept": len(drawn.indices)}
            digests[split] = hashlib.sha256(file.read_bytes()).hexdigest()
            excluded[split] = [available[i]["id"] for i in drawn.excluded]
            indices[split] = drawn.indices
        write_json(
            part / "manifest.json",
            {
                "task": task.name,
                "fold": fold,
                "seed": seed,
                "options": options.model_dump(mode="json"),
                "counts": counts,
                "indices": indices,
                "excluded_for_overlap": excluded,
                "provenance": fetcher.provenance[known:],
                "sha256": digests,
            },
        )
