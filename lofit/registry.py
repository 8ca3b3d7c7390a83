"""Finding methods and localizers: a module in the folder is registered by being there."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import traceback
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TypeVar

from lofit.errors import ConfigError, brief
from lofit.files import short_hash

T = TypeVar("T")


def _folder(package: str) -> Path:
    return Path(importlib.import_module(package).__file__ or "").parent


@cache
def module_names(package: str) -> tuple[str, ...]:
    """Names of the modules of ``package`` that come with a recipe (``<name>.yaml`` beside them), sorted."""
    folder = _folder(package)
    return tuple(sorted(m.name for m in pkgutil.iter_modules([str(folder)]) if (folder / f"{m.name}.yaml").is_file()))


def load(package: str, name: str, attribute: str, kind: type[T]) -> T:
    """Import ``package.name`` and return the object of class ``kind`` that it registers under ``attribute``.

    Raises:
        ConfigError: the module cannot be imported, or registers no such object: one line naming the file.
    """
    file = _folder(package) / f"{name}.py"
    try:
        module = importlib.import_module(f"{package}.{name}")
    except (Exception, SystemExit) as error:  # whatever a module of the user's raises
        if isinstance(error, SyntaxError):
            place, line = error.filename, error.lineno
        else:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place, line = last.filename, last.lineno
        raise ConfigError(
            f"{file} cannot be imported ({type(error).__name__}: {brief(error)}; {place}:{line}); correct it"
        ) from None
    found = getattr(module, attribute, None)
    if not isinstance(found, kind):
        raise ConfigError(f"{file} has no {attribute} of class {kind.__name__}; define it, as its neighbours do")
    return found


@cache
def source_hash(package: str, name: str) -> str:
    """Short hash of the source of a module, which is part of what determines the results of what it registers."""
    return short_hash((_folder(package) / f"{name}.py").read_text(encoding="utf-8"))


def unknown_module(kind: str, package: str, name: str) -> str:
    """The message for a name without module and recipe, which says what it lacks where half of it is there."""
    folder = _folder(package)
    file, recipe = folder / f"{name}.py", folder / f"{name}.yaml"
    for there, lacking in ((file, recipe), (recipe, file)):
        if there.is_file():
            return f"'{name}' is no {kind} yet: {there} is there and {lacking.name} is not; write it beside the other"
    return unknown(kind, name, module_names(package))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for an unknown name, with the nearest known one."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"choose from: {', '.join(known)}"
    return f"unknown {kind} '{name}'; {hint}"
