"""Localizers, which rank attention heads: one module per strategy, with its recipe (``<name>.yaml``) beside it."""

from __future__ import annotations

from pathlib import Path

from lofit import registry
from lofit.localizers.localizer import Localizer


def localizer_names() -> tuple[str, ...]:
    """Return the names of all localizers."""
    return registry.module_names(__name__)


def load_localizer(name: str) -> Localizer:
    """Return the localizer called ``name``."""
    return registry.load(__name__, name, "LOCALIZER", Localizer)


def recipe(name: str) -> Path:
    """Return the path of the recipe of the localizer called ``name``."""
    return registry.recipe(__name__, name)
