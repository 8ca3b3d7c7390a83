"""Default hyperparameters: each method and localizer has a recipe file beside its module.

A recipe is a YAML list. Each entry has ``set`` (the values) and ``source`` (where they come from), and may be limited
to a ``model`` and a ``task`` (a name or a list of names). Later entries override earlier ones, and the run
configuration overrides them all.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lofit.errors import ConfigError
from lofit.spec.base import first_problem
from lofit.strict_yaml import read_yaml


class RecipeEntry(BaseModel):
    """One entry of a recipe file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | tuple[str, ...] | None = None
    task: str | tuple[str, ...] | None = None
    set: dict[str, Any]
    source: str

    def holds_for(self, model: str, task: str) -> bool:
        """Return whether the entry applies to this model and task."""
        return _matches(self.model, model) and _matches(self.task, task)


def _matches(pattern: str | tuple[str, ...] | None, name: str) -> bool:
    return pattern is None or name == pattern or (isinstance(pattern, tuple) and name in pattern)


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


def resolve(path: Path, model: str, task: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters for one model and task: matching recipe entries in order, then ``overrides``."""
    values: dict[str, Any] = {}
    for entry in load_recipe(path):
        if entry.holds_for(model, task):
            values.update(entry.set)
    return values | overrides
