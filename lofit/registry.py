"""Find methods and localizers: a module is registered by being in the folder, with its recipe beside it.

Folders of the user (``plugins``) and of installed packages (entry points) are searched like the package's own.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import traceback
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeVar

from lofit.errors import ConfigError, brief
from lofit.files import short_hash

T = TypeVar("T")


EXTENDED = ("methods", "localizers", "tasks")
"""Packages of this one to which plugins add modules, by the names of their folders there."""


def folders(package: str) -> list[Path]:
    """Return the folders in which the modules of a package are: its own, and those of plugins."""
    return [Path(place) for place in importlib.import_module(package).__path__]


@cache
def _file(package: str, name: str) -> Path:
    files = [place / f"{name}.py" for place in folders(package)]
    return next((file for file in files if file.is_file()), files[0])


def recipe(package: str, name: str) -> Path:
    """Return the path of the recipe of a module."""
    return _file(package, name).with_suffix(".yaml")


@cache
def module_names(package: str) -> tuple[str, ...]:
    """Return the sorted names of the modules of ``package`` that have a recipe (``<name>.yaml``) beside them."""
    found = pkgutil.iter_modules([str(place) for place in folders(package)])
    return tuple(sorted(module.name for module in found if recipe(package, module.name).is_file()))


def add_plugins(folder: Path) -> None:
    """Make known what is in the subfolders ``methods``, ``localizers`` and ``tasks`` of a folder.

    Raises:
        ConfigError: there are no such subfolders, or something in them has the name of what is known already.
    """
    parts = [part for part in EXTENDED if (folder / part).is_dir()]
    if not parts:
        raise ConfigError(f"plugins: {folder} has no subfolder {', '.join(EXTENDED)}; add one, or correct the path")
    for part in parts:
        _extend(part, folder / part)


@cache
def add_installed() -> None:
    """Make known what installed packages name in the entry points ``lofit.methods``, ``.localizers`` and ``.tasks``.

    An entry point names a module, of a task its package or its ``prepare``; all that is beside it is known then.
    """
    for part in EXTENDED:
        for point in entry_points(group=f"lofit.{part}"):
            try:
                found = importlib.util.find_spec(point.module)
            except ImportError as error:
                raise ConfigError(f"entry point {point.value} of lofit.{part}: {brief(error)}; reinstall it") from None
            if not found or not found.origin:
                raise ConfigError(f"entry point {point.value} of lofit.{part}: there is no such module; reinstall it")
            place = Path(found.origin).parent
            _extend(part, place.parent if part == "tasks" else place)


def _extend(part: str, place: Path) -> None:
    package = importlib.import_module(f"lofit.{part}")
    place = place.resolve()
    if str(place) in package.__path__:
        return
    known = {entry.stem for folder in folders(package.__name__) for entry in folder.iterdir()}
    for entry in sorted(place.iterdir()):
        if entry.stem in known and not entry.name.startswith(("_", ".")):
            raise ConfigError(f"plugins: {entry} has the name of one that is known already; rename it")
    package.__path__.append(str(place))
    importlib.invalidate_caches()
    module_names.cache_clear()
    _file.cache_clear()


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
    for folder in folders(package):
        file, own = folder / f"{name}.py", folder / f"{name}.yaml"
        for there, lacking in ((file, own), (own, file)):
            if there.is_file():
                return (
                    f"'{name}' is no {kind} yet: {there} is there and {lacking.name} is not; write it beside the other"
                )
    return unknown(kind, name, module_names(package))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name, with the closest known name, or all of them if none is close."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"choose from: {', '.join(known)}"
    return f"unknown {kind} '{name}'; {hint}"


def matching(kind: str, asked: str, names: Iterable[str]) -> str:
    """Return the name that ``asked`` is, or is a part of.

    Raises:
        ConfigError: there is no such name, or several.
    """
    known = list(dict.fromkeys(map(str, names)))
    found = [asked] if asked in known else [name for name in known if asked in name]
    if len(found) > 1:
        raise ConfigError(f"'{asked}' is part of several names: {', '.join(found)}; give one whole")
    if not found:
        raise ConfigError(unknown(kind, asked, known))
    return found[0]
