"""Hyperparameters as data: a recipe file beside each method and localizer.

A recipe is a YAML list. Each entry may say for which ``model`` and ``task`` (a name or a list of names) it holds,
what it sets, and the ``source`` of the values. Later entries override earlier ones; the run
configuration overrides them all.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict


class RecipeEntry(BaseModel):
    """One entry of a recipe file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | tuple[str, ...] | None = None
    task: str | tuple[str, ...] | None = None
    set: dict[str, Any]
    source: str

    def holds_for(self, model: str, task: str) -> bool:
        """Whether the entry applies to this model and task."""
        return _matches(self.model, model) and _matches(self.task, task)


def _matches(pattern: str | tuple[str, ...] | None, name: str) -> bool:
    return pattern is None or name == pattern or (isinstance(pattern, tuple) and name in pattern)


@cache
def load_recipe(path: Path) -> tuple[RecipeEntry, ...]:
    """Read and check a recipe file."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    return tuple(RecipeEntry.model_validate(entry) for entry in entries)


def resolve(path: Path, model: str, task: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters for one model and task: recipe entries in order, then ``overrides``."""
    values: dict[str, Any] = {}
    for entry in load_recipe(path):
        if entry.holds_for(model, task):
            values.update(entry.set)
    return values | overrides
