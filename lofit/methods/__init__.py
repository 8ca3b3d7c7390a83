"""Methods: one module per method, with its recipe beside it; registered by being there."""

from __future__ import annotations

from lofit import registry
from lofit.methods.method import Method


def method_names() -> tuple[str, ...]:
    """Names of all methods."""
    return registry.module_names(__name__)


def load_method(name: str) -> Method:
    """The method registered as ``name``."""
    return registry.load(__name__, name, "METHOD", Method)
