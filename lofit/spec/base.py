"""The parts of a configuration that say how a method is run."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from lofit.errors import ConfigError
from lofit.files import expanded

HeadCount = Annotated[
    StrictInt | StrictFloat,
    Field(
        gt=0, description="number of heads kept (integer of 1 or more), or their share of all heads (between 0 and 1)"
    ),
]


_LONGEST_NAME = 255
"""Bytes of a file's name on Linux."""


def _path(path: Path) -> Path:
    try:
        path = expanded(path)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    if {"{", "}"} & set(str(path)):
        raise ValueError("braces, which Snakemake takes for a wildcard; rename the folder")
    if max(map(len, map(os.fsencode, path.parts)), default=0) > _LONGEST_NAME:
        raise ValueError(f"a name of more than {_LONGEST_NAME} bytes, which file systems do not have; correct it")
    return path


UserPath = Annotated[Path, AfterValidator(_path)]
"""A path that the user writes; ``~`` is expanded."""


def _beside(path: Path, info: ValidationInfo) -> Path:
    folder: Path | None = (info.context or {}).get("folder")
    if not folder or path.is_absolute() or not (folder / path).exists():
        return path
    # However the file was named, the path is the same: it is part of what nodes are called.
    return Path(os.path.relpath(folder / path))


InputPath = Annotated[UserPath, AfterValidator(_beside)]
"""A path that is read: beside the configuration file if it is there, otherwise from the working folder."""


def _folder_to_fill(path: Path) -> Path:
    if not str(path).isprintable():
        raise ValueError("a line break or another character that cannot be shown; name another folder")
    place, home = Path(os.path.realpath(path)), Path(os.path.realpath(os.path.expanduser("~")))
    if place in (home, *home.parents):
        raise ValueError("the home folder, or one that holds it; name a folder in it")
    if path == Path():
        raise ValueError("the working folder; name a folder in it")
    if place.exists() and not place.is_dir():
        raise ValueError("there is a file of that name; name a folder")
    return path


OwnFolder = Annotated[UserPath, AfterValidator(_folder_to_fill)]
"""A folder that the workflow fills with many files and that is emptied by hand."""


def _one_line(text: str) -> str:
    if text.splitlines() != [text]:
        raise ValueError("empty, or with a line break; write it on one line")
    return text


Line = Annotated[str, AfterValidator(_one_line)]
"""One line of text, to be shown in tables and messages."""

Seed = Annotated[StrictInt, Field(ge=0, lt=2**32)]
"""A seed that every random number generator accepts."""


def first_problem(error: ValidationError) -> str:
    """Return the first problem of a validation error as ``key: problem``."""
    first = error.errors(include_url=False)[0]
    return ": ".join(
        filter(None, [".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ").lower()])
    )


def _is_list(annotation: Any) -> bool:
    """Whether a list is the only value that an annotation allows, but for None."""
    allowed = [entry for entry in get_args(annotation) if entry is not type(None)]
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return len(allowed) == 1 and _is_list(allowed[0])
    return get_origin(annotation) is list


class Form(BaseModel):
    """Base of all parts: unknown keys are errors, numbers must be finite, instances are immutable.

    A single text or number stands for a list of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _lists_of_one(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        lists = {name for name, field in cls.model_fields.items() if _is_list(field.annotation)}
        return {
            key: [value] if key in lists and isinstance(value, str | int | float) else value
            for key, value in given.items()
        }


class SharedParams(Form):
    """Hyperparameters for a model and a task."""

    model: str | list[str] | None = Field(default=None, description="name or names; null: all models")
    task: str | list[str] | None = Field(default=None, description="name or names; null: all tasks")
    set: dict[str, Any] = Field(min_length=1, description="hyperparameters")

    def holds_for(self, model: str, task: str) -> bool:
        """Return whether the entry applies to this model and task."""
        return all(
            given is None or name == given or (isinstance(given, list) and name in given)
            for given, name in ((self.model, model), (self.task, task))
        )


class HeadsConfig(Form):
    """Which heads a method edits."""

    localizer: str | None = Field(default=None, description="strategy that ranks the heads; null: the method's own")
    task: str | None = Field(default=None, description="task to rank the heads on; null: the task trained for")
    k: list[HeadCount] = Field(
        default=[0.03, 0.10],
        min_length=1,
        description="how many heads; one run for each value, or the grid that a method such as iti chooses from",
    )
    bottom: StrictBool = Field(default=False, description="edit the heads that are ranked last instead of first")
    params: dict[str, Any] = Field(default={}, description="overrides of the localizer's recipe")


_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def as_number(value: Any) -> Any:
    """Return what YAML 1.1 reads as text although it is a number, such as 1e-4, as one; anything else as it is."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _each_once(values: list[Any]) -> list[Any]:
    if again := [value for at, value in enumerate(values) if value in values[:at]]:
        raise ValueError(f"{again[0]} is there twice, and would count as two settings; remove one")
    return values


Values = Annotated[list[Annotated[Any, BeforeValidator(as_number)]], Field(min_length=1), AfterValidator(_each_once)]


class SearchConfig(Form):
    """What to choose on validation: every combination of the values is a setting to try, a run of its own."""

    k: list[HeadCount] | None = Field(default=None, min_length=1, description="numbers of heads, instead of heads.k")
    localizer: dict[str, Values] = Field(default={}, description="hyperparameters of the localizer to their values")
    params: dict[str, Values] = Field(default={}, description="hyperparameters of the method to their values")

    @property
    def axes(self) -> dict[str, list[Any]]:
        """Values to try, by name of the hyperparameter; those of the localizer have the prefix ``localizer.``."""
        moved = {f"localizer.{name}": values for name, values in self.localizer.items()}
        return {**({"k": self.k} if self.k else {}), **moved, **self.params}


class MethodConfig(Form):
    """One method of the comparison."""

    heads: HeadsConfig | None = Field(default=None, description="for methods that edit selected heads")
    params: dict[str, Any] = Field(default={}, description="overrides of the method's recipe")
    search: SearchConfig | None = Field(default=None, description="null: run as configured")
