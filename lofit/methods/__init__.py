"""Methods of adapting a model: one module per method, with its recipe (``<name>.yaml``) beside it."""

from __future__ import annotations

from pathlib import Path

from lofit import registry
from lofit.methods.method import Method


def method_names() -> tuple[str, ...]:
    """Return the names of all methods."""
    return registry.module_names(__name__)


def load_method(name: str) -> Method:
    """Return the method called ``name``."""
    return registry.load(__name__, name, "METHOD", Method)


def recipe(name: str) -> Path:
    """Return the path of the recipe of the method called ``name``."""
    return registry.recipe(__name__, name)
