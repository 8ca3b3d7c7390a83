"""Find methods and localizers: a module is registered by being in the folder, with its recipe beside it."""

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


def _file(package: str, name: str) -> Path:
    return _folder(package) / f"{name}.py"


@cache
def module_names(package: str) -> tuple[str, ...]:
    """Return the sorted names of the modules of ``package`` that have a recipe (``<name>.yaml``) beside them."""
    folder = _folder(package)
    return tuple(sorted(m.name for m in pkgutil.iter_modules([str(folder)]) if (folder / f"{m.name}.yaml").is_file()))


def load(package: str, name: str, attribute: str, kind: type[T]) -> T:
    """Import ``package.name`` and return the object of class ``kind`` that it registers under ``attribute``.

    Raises:
        ConfigError: the module cannot be imported, or registers no such object; the message names the file.
    """
    try:
        module = importlib.import_module(f"{package}.{name}")
    except (Exception, SystemExit) as error:  # a module that a user wrote can raise anything
        if isinstance(error, SyntaxError):
            place, line = error.filename, error.lineno
        else:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place, line = last.filename, last.lineno
        raise ConfigError(
            f"{_file(package, name)} cannot be imported ({type(error).__name__}: {brief(error)}; {place}:{line}); "
            "correct it"
        ) from None
    found = getattr(module, attribute, None)
    if not isinstance(found, kind):
        raise ConfigError(
            f"{_file(package, name)} has no {attribute} of class {kind.__name__}; define it, as its neighbours do"
        )
    return found


@cache
def source_hash(package: str, name: str) -> str:
    """Return a short hash of a module's source; nodes of the method or localizer run again when it changes."""
    return short_hash(_file(package, name).read_text(encoding="utf-8"))


def unknown_module(kind: str, package: str, name: str) -> str:
    """Return the message for an unknown name; if only its module or only its recipe exists, it says what is missing."""
    folder = _folder(package)
    file, recipe = folder / f"{name}.py", folder / f"{name}.yaml"
    for there, lacking in ((file, recipe), (recipe, file)):
        if there.is_file():
            return f"'{name}' is no {kind} yet: {there} is there and {lacking.name} is not; write it beside the other"
    return unknown(kind, name, module_names(package))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name, with the closest known name, or all of them if none is close."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"choose from: {', '.join(known)}"
    return f"unknown {kind} '{name}'; {hint}"
