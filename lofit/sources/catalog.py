"""The catalogue of models that come with the package, so that a configuration can say ``smollm2-135m``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, TypeAdapter, ValidationError

from lofit.errors import ConfigError
from lofit.sources.source import ModelSource
from lofit.spec.base import first_problem
from lofit.strict_yaml import read_yaml


class ModelEntry(BaseModel):
    """Where a model comes from and its shape, known before it is fetched."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    source: ModelSource = Field(description="where it comes from")
    n_layers: PositiveInt = Field(description="number of layers")
    n_heads: PositiveInt = Field(description="query heads per layer")
    billions: PositiveFloat | None = Field(
        default=None,
        description="parameters in 1e9, for the estimates of `lofit plan` and the memory and time that jobs request",
    )
    gpus: PositiveInt = Field(default=1, description="GPUs over which the layers are distributed if `device` is cuda")


@cache
def load_catalog() -> dict[str, ModelEntry]:
    """Read and check the catalogue, in the order of ``catalog.yaml``.

    Raises:
        ConfigError: the file is malformed (one line that names the file).
    """
    path = Path(__file__).with_name("catalog.yaml")
    try:
        return TypeAdapter(dict[str, ModelEntry]).validate_python(read_yaml(path, ConfigError))
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}; correct it") from None
