"""Configuration of an experiment, and the experiments that come with the package as YAML files in this folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StrictInt, ValidationError

from lofit.errors import ConfigError
from lofit.spec.base import Form, HeadCount, Line, MethodConfig, Seed, first_problem
from lofit.strict_yaml import read_yaml

FOLDER = Path(__file__).parent
Kind = Literal["table", "curve", "layers", "lens", "pareto", "variance", "planted"]
"""``table``: arm by task. ``curve``: score against training examples or share of heads. ``layers``: where the selected
heads are. ``lens``: table of the tokens that the offsets of heads stand for, for the first seed and fold. ``pareto``:
score against trained parameters and seconds. ``variance``: table of how much scores vary with the training subset and
with the training seed. ``planted``: what localizers find of heads that were damaged on purpose."""


TABLES: tuple[Kind, ...] = ("table", "lens", "variance")
"""Kinds that are written as a table; the others are drawn as figures."""
UNSCORED: tuple[Kind, ...] = ("layers", "lens", "planted")
"""Kinds that show what was selected and fitted, and no scores."""


class ArmConfig(MethodConfig):
    """One line of an experiment: a method, and what it is run with."""

    method: str = Field(description="name of the method")


class DamageConfig(Form):
    """How heads are damaged."""

    kind: Literal["scale", "offset"] = Field(
        description="scale: the output of a head is multiplied; offset: a constant vector of random direction is taken "
        "away from it"
    )
    strength: float = Field(
        gt=0, description="the factor; or the length of the vector, in root mean squares of the head's output"
    )

    @property
    def label(self) -> str:
        """Name in tables and paths."""
        return f"{self.kind}{self.strength:g}"


class PlantedConfig(Form):
    """A model that is damaged at known heads, to see whether localizers find them; all combinations are run."""

    damages: list[DamageConfig] = Field(min_length=1, description="ways to damage heads")
    k: list[Annotated[StrictInt, Field(ge=1)]] = Field(
        min_length=1, description="numbers of damaged heads, and of heads that are edited"
    )
    n_train: list[Annotated[StrictInt, Field(ge=1)]] = Field(min_length=1, description="numbers of training examples")
    n_validation: Annotated[StrictInt, Field(ge=1)] = Field(default=32, description="number of validation examples")
    tokens: Annotated[StrictInt, Field(ge=1)] = Field(default=10, description="most tokens of an answer")
    targets: list[Literal["dense", "sparse"]] = Field(
        min_length=1,
        description="dense: the intact model's predictions at every answer token (KL); sparse: its greedy text",
    )
    draws: Annotated[StrictInt, Field(ge=1)] = Field(
        default=5, description="of damaged heads, among those whose damage alone is visible"
    )
    fitted: list[Line] | None = Field(
        default=None, description="arms whose method is fitted, the others only rank heads; null: all"
    )


class ExperimentConfig(Form):
    """One experiment; what is left out is taken from an experiment that comes with the package."""

    model_config = ConfigDict(serialize_by_alias=True)

    like: str | None = Field(
        default=None, description="the package's experiment that gives what is left out; null: that of this name"
    )
    kind: Kind | None = Field(default=None, description="null: that of the package's experiment")
    title: Line | None = Field(default=None, description="what tables and figures are headed with")
    tasks: list[str] | None = Field(default=None, min_length=1, description="null: all configured tasks")
    seeds: list[Seed] | None = Field(
        default=None, min_length=1, description="of the configured seeds; null: all of them"
    )
    arms: dict[Line, ArmConfig] | None = Field(
        default=None,
        min_length=1,
        description="what is compared, by name; `params` of a method hold for its arms too, unless they have their own",
    )
    further_arms: dict[Line, ArmConfig] | None = Field(
        default=None,
        alias="arms+",
        min_length=1,
        description="arms beside those, or instead of those of the same names",
    )
    primary: Line | None = Field(
        default=None,
        description="the arm that the experiment compares all others with: its one family of tests; the others explore",
    )
    k: list[HeadCount] | None = Field(
        default=None, min_length=1, description="curve: numbers or shares of heads, instead of the arms' own"
    )
    n_train: list[Annotated[StrictInt, Field(ge=1)]] | None = Field(
        default=None, min_length=1, description="curve: numbers of training examples, instead of the tasks' own"
    )
    training_seeds: list[Seed] | None = Field(
        default=None,
        min_length=2,
        description="variance: seeds of training on every subset; null: the configured seeds",
    )

    planted: PlantedConfig | None = Field(default=None, description="planted: how heads are damaged")

    @property
    def counts_heads(self) -> bool:
        """Whether the axis of a curve shows numbers of heads; it shows shares if all values of ``k`` are shares."""
        return any(isinstance(k, int) for k in self.k or ())


@cache
def _builtin(name: str) -> dict[str, Any]:
    path = FOLDER / f"{name}.yaml"
    found: dict[str, Any] = read_yaml(path, ConfigError)
    try:
        ExperimentConfig.model_validate(found)
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}; correct it") from None
    return found


def builtin_names() -> list[str]:
    """Return the names of the experiments that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def resolved(name: str, given: ExperimentConfig | None) -> ExperimentConfig:
    """Fill in the keys that an experiment leaves out from the package's experiment that it is like, if there is one.

    If an axis (``k`` or ``n_train``) is given, it replaces the package's axis, even if that is the other one. The
    package's primary arm holds if it is among the arms. Further arms are then among the arms.
    """
    values = (given or ExperimentConfig()).model_dump(exclude_none=True)
    further = values.pop("arms+", {})
    if (like := values.get("like", name)) in builtin_names():
        defaults = _builtin(like)
        if {"k", "n_train"} & values.keys():
            defaults = {key: value for key, value in defaults.items() if key not in ("k", "n_train")}
        if defaults.get("primary") not in values.get("arms", defaults["arms"]):
            defaults = {key: value for key, value in defaults.items() if key != "primary"}
        values = defaults | values
    if further:
        values["arms"] = values.get("arms", {}) | further
    return ExperimentConfig.model_validate(values)
