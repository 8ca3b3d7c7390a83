"""Write a configuration to start from: a ready one, with every other key beside its default (``lofit init``)."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path
from typing import Any

import yaml

from lofit.config.form import Config
from lofit.errors import ConfigError
from lofit.files import shipped, write_text
from lofit.strict_yaml import read_yaml

DEMO = "demo"
"""Name of the default configuration among the ready ones, which is ``config.yaml``."""


def ready_names() -> list[str]:
    """Return the names of the ready configurations."""
    return [DEMO, *sorted(path.stem for path in shipped("config").glob("*.yaml"))]


def write_template(folder: Path, like: str) -> Path:
    """Write ``config.yaml``, and the data of its custom tasks, into a folder, which is created if it is missing.

    Args:
        folder: where to write.
        like: one of :func:`ready_names`.

    Returns:
        The path of the configuration.

    Raises:
        ConfigError: something of that name is there already; nothing is written then.
    """
    source = shipped("config.yaml") if like == DEMO else shipped("config") / f"{like}.yaml"
    given: dict[str, Any] = read_yaml(source, ConfigError)
    data = [Path(task["path"]) for task in given["tasks"].values() if task and "path" in task]
    target = folder / "config.yaml"
    for path in (target, *(folder / path for path in data)):
        if path.exists():
            raise ConfigError(f"{path} exists already; name another folder, or move it away")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    for path in data:
        shutil.copytree(shipped(str(path)), folder / path)
    write_text(target, source.read_text(encoding="utf-8") + _other_keys(given))
    return target


def _other_keys(given: dict[str, Any]) -> str:
    """Every key that is not given, commented out, with its default and what it means."""
    lines = [
        "",
        "# Every other key, with its default. Hyperparameters of methods: docs/methods.md; tasks: docs/tasks.md.",
    ]
    for name, field in Config.model_fields.items():
        if name in given:
            continue
        assert not field.is_required(), f"{name} has no default; every ready configuration gives it"
        lines += ["", *(f"# {line}" for line in textwrap.wrap(field.description or "", 100))]
        value = yaml.safe_dump(_plain(field.default), sort_keys=False, default_flow_style=True, width=1000)
        lines.append(f"#{name}: {value.splitlines()[0]}")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return str(value) if isinstance(value, Path) else value
