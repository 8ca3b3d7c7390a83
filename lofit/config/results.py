"""Check that the results folder belongs to this suite.

A run writes many files into the folder, so a folder that holds other files of the user is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from lofit.config.form import Config
from lofit.errors import ConfigError
from lofit.files import is_scratch, short_hash, write_text
from lofit.localizers import localizer_names
from lofit.methods import method_names
from lofit.sources.source import LocalModel
from lofit.strict_yaml import read_yaml

_IGNORED_FILES = ("README.md", ".gitkeep", ".gitignore")
"""Files that an otherwise empty folder under version control may hold."""


def snapshot_path(config: Config) -> Path:
    """Return the path of the copy of a configuration that is kept with its results.

    The name contains the checksum of the configuration, which shows that this suite wrote the file.
    """
    return config.results / "plan" / f"config-{short_hash(config.model_dump(mode='json'))}.yaml"


def is_snapshot(file: Path) -> bool:
    """Return whether a file is such a copy, by its name."""
    return file.parent.name == "plan" and re.fullmatch(r"config-[0-9a-f]{8}\.yaml", file.name) is not None


def write_snapshot(config: Config) -> None:
    """Write a copy of the configuration into the results folder, before anything else is written there."""
    write_text(snapshot_path(config), yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def folder_problems(config: Config) -> Iterator[str]:
    """Yield a problem if ``results`` or ``resources`` is a folder in which a run would touch files of the user.

    Refused are the folder of a local model with its subfolders, and a results folder with files of other origin.
    """
    for name in config.all_models:
        source = config.model_sources[name].source if name in config.model_sources else None
        if isinstance(source, LocalModel):
            model = Path(os.path.realpath(source.path))
            for key in ("results", "resources"):
                place = Path(os.path.realpath(getattr(config, key)))
                if model in (place, *place.parents):
                    yield f"{key}: {getattr(config, key)} is in the folder of model {name}; name another folder"
    folder = config.results
    try:
        if folder.is_dir() and (found := _foreign(folder, os.path.realpath(config.resources))):
            found = found.relative_to(folder)
            yield f"results: {folder} holds {found}, which no run of this suite wrote; name another folder"
    except OSError as error:
        yield f"results: {folder} cannot be read ({error.strerror}); name another folder"


def _foreign(folder: Path, resources: str) -> Path | None:
    """Return the first file in a folder that this suite did not write; None if there is none.

    The resources folder and subfolders with results of this suite are skipped.
    """
    if _is_ours(folder):
        return None
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() or not entry.is_dir():
            if entry.name not in _IGNORED_FILES:
                return entry
        elif not is_scratch(entry) and os.path.realpath(entry) != resources and (found := _foreign(entry, resources)):
            return found
    return None


def _is_ours(folder: Path) -> bool:
    """Return whether a folder holds results of this suite.

    Such a folder has a copy of a configuration, or folders of a node that was run by hand.
    """
    for file in folder.glob("plan/config-*.yaml"):
        try:
            if file.stem == f"config-{short_hash(read_yaml(file, ConfigError))}":
                return True
        except (ConfigError, TypeError, ValueError, RecursionError):
            continue  # not one of ours
    split, a_hash = "*/*/fold*/seed*", "[0-9a-f]" * 8
    nodes = [*folder.glob(f"localize/{split}/*-{a_hash}"), *folder.glob(f"runs/{split}/*-{a_hash}")]
    names = {node.name[:-9].removesuffix("-tuned") for node in nodes}
    others = (f"activations/{split}-{a_hash}", f"effects/{split}/*-{a_hash}", f"planted/{split}/*-{a_hash}")
    return bool(names & {*method_names(), *localizer_names()}) or any(any(folder.glob(each)) for each in others)
