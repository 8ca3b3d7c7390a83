"""Read what a run has fitted through the logit lens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lofit.errors import FitError
from lofit.interventions.tuner.lens import HeadLens, offset_lens
from lofit.models.adapters import CONFIG, load_adapter, verify


def fitted_lens(
    base: Any, fitted: Path, recorded: Mapping[str, str] | None, k: int = 10, final_norm: bool = False
) -> list[HeadLens]:
    """Read the offsets of a saved adapter as tokens (:func:`lofit.interventions.tuner.lens.offset_lens`).

    Args:
        base: the base model, which is afterwards as it was before.
        fitted: folder of the adapter.
        recorded: checksums of its files, as the fit wrote them.
        k: how many tokens of each head.
        final_norm: whether to apply the model's final norm before the unembedding.

    Raises:
        FitError: the folder holds a checkpoint, and no adapter.
        EditError: the adapter has no offsets on heads, or the model cannot be read this way.
        SourceError: the adapter is damaged, was altered since it was fitted, or belongs to another model.
    """
    verify(fitted, recorded)
    if not (fitted / CONFIG).is_file():
        raise FitError(f"{fitted}: the method trains the model itself, so there are no offsets to read")
    model: Any = load_adapter(base, fitted)
    try:
        return offset_lens(model, k, final_norm)
    finally:
        model.unload()
