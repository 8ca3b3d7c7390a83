"""Begin a custom method, localizer or task: the worked example of docs/extending.md under another name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from lofit.config.form import NAME
from lofit.errors import ConfigError
from lofit.files import shipped, write_text
from lofit.localizers import localizer_names
from lofit.methods import method_names
from lofit.tasks import task_names

Part = Literal["method", "localizer", "task"]
EXAMPLES: dict[Part, str] = {"method": "scale_only", "localizer": "last_layers", "task": "reverse"}
"""What the examples of the page are called."""
BLOCK = re.compile(r"`(\S+)`(?:, before `([^`]+)`)?:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""In the page, a file to write, or the lines to insert before the one line of it that begins so."""


def write_skeleton(part: Part, name: str, folder: Path) -> list[Path]:
    """Write the files of a plugin that works as it stands.

    Args:
        part: what it is.
        name: what it is called.
        folder: folder of plugins; created if it is missing.

    Returns:
        The files.

    Raises:
        ConfigError: the name is no name of a module, or taken, or a file is there already; nothing is written then.
    """
    if not name.isidentifier() or not re.fullmatch(NAME, name):
        raise ConfigError(f"'{name}': give a name of letters, digits and underscores, which a Python module can have")
    known = {"method": method_names, "localizer": localizer_names, "task": task_names}[part]()
    if name in known:
        raise ConfigError(f"'{name}' is a {part} already; give another name")
    example, text = EXAMPLES[part], shipped("docs/extending.md").read_text(encoding="utf-8")
    place = re.compile(rf"lofit/({part}s/{example}[./].*)")
    found = {
        folder / at[1].replace(example, name, 1): re.sub(rf'(name="|lofit_){example}\b', rf"\g<1>{name}", body)
        for file, before, body in BLOCK.findall(text)
        if not before and (at := place.fullmatch(file))
    }
    for file in found:
        if file.exists():
            raise ConfigError(f"{file} exists already; give another name, or move it away")
    for file, body in found.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, body)
    return list(found)
