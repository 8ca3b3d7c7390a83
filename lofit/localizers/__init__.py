"""Localizers: one module per strategy that ranks attention heads, with its recipe beside it."""

from __future__ import annotations

from lofit import registry
from lofit.localizers.localizer import Localizer


def localizer_names() -> tuple[str, ...]:
    """Names of all localizers."""
    return registry.module_names(__name__)


def load_localizer(name: str) -> Localizer:
    """The localizer registered as ``name``."""
    return registry.load(__name__, name, "LOCALIZER", Localizer)
