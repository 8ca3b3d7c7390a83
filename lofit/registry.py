"""Finding methods and localizers: a module in the folder is registered by being there."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any


@cache
def module_names(package: str) -> tuple[str, ...]:
    """Names of the modules of ``package`` that come with a recipe (``<name>.yaml`` beside them), sorted."""
    folder = Path(importlib.import_module(package).__file__ or "").parent
    return tuple(sorted(m.name for m in pkgutil.iter_modules([str(folder)]) if (folder / f"{m.name}.yaml").is_file()))


def load(package: str, name: str, attribute: str) -> Any:
    """Import ``package.name`` and return the object it registers under ``attribute``."""
    return getattr(importlib.import_module(f"{package}.{name}"), attribute)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for an unknown name, with the nearest known one."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"choose from: {', '.join(known)}"
    return f"unknown {kind} '{name}'; {hint}"
