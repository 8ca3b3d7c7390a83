"""Default hyperparameters: each method and localizer has a recipe file beside its module.

A recipe is a YAML list. Each entry has ``set`` (the values) and ``source`` (where they come from), and may be limited
to a ``model`` and a ``task`` (a name or a list of names). Later entries override earlier ones. A configuration's
``shared_params`` are such entries for all methods and localizers; they override the recipes, and ``params`` both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lofit.errors import ConfigError
from lofit.spec.base import SharedParams, first_problem
from lofit.strict_yaml import read_yaml


class RecipeEntry(SharedParams):
    """One entry of a recipe file."""

    source: str


@cache
def load_recipe(path: Path) -> tuple[RecipeEntry, ...]:
    """Read and check a recipe file.

    Raises:
        ConfigError: the file cannot be read, or an entry is malformed (one line that names the file).
    """
    entries = read_yaml(path, ConfigError) or []
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: a recipe is a list of entries; found {type(entries).__name__}")
    found = []
    for number, entry in enumerate(entries, start=1):
        try:
            found.append(RecipeEntry.model_validate(entry))
        except ValidationError as error:
            raise ConfigError(f"{path}: entry {number}: {first_problem(error)}; correct it") from None
    return tuple(found)


def resolve(
    path: Path, form: type[BaseModel], model: str, task: str, shared: Sequence[SharedParams], overrides: dict[str, Any]
) -> dict[str, Any]:
    """Return the hyperparameters of a method or localizer for one model and task.

    Args:
        path: its recipe.
        form: its hyperparameters.
        model: name of the model.
        task: name of the task.
        shared: entries for all methods and localizers, of which the hyperparameters in ``form`` are taken.
        overrides: its own hyperparameters.
    """
    values: dict[str, Any] = {}
    for entry in load_recipe(path):
        if entry.holds_for(model, task):
            values |= entry.set
    for common in shared:
        if common.holds_for(model, task):
            values |= {name: value for name, value in common.set.items() if name in form.model_fields}
    return values | overrides
