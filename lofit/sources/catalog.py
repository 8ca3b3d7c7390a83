"""Named models that come with the package, so that a configuration can say ``smollm2-135m``."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from lofit.sources.spec import ModelSource


class ModelEntry(BaseModel):
    """Where a model comes from and its shape, known before it is fetched."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    source: ModelSource
    n_layers: PositiveInt
    n_heads: PositiveInt
    """Query heads per layer."""
    billions: PositiveFloat | None = None
    """Parameters, in 1e9, for the estimates of ``lofit plan`` and for the memory and time that nodes ask for."""
    gpus: PositiveInt = 1
    """GPUs that it is spread over, layer by layer, where ``device`` is cuda."""


@cache
def load_catalog() -> dict[str, ModelEntry]:
    """All named models, in the order of ``catalog.yaml``."""
    import yaml

    text = files("lofit.sources").joinpath("catalog.yaml").read_text(encoding="utf-8")
    return {name: ModelEntry.model_validate(entry) for name, entry in yaml.safe_load(text).items()}
