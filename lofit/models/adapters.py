"""Saved adapters and checkpoints: checksums of their files, and loading that refuses what does not fit the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit.errors import SourceError, brief
from lofit.files import sha256_of
from lofit.models.loading import Precision, load_model
from lofit.models.memory import out_of_memory

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
REMEDY = "remove its folder and fit again"


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256, by file name, of the files of an adapter or checkpoint that determine what it computes."""
    return {file.name: sha256_of(file) for kind in ("json", "safetensors") for file in sorted(folder.glob(f"*.{kind}"))}


def verify(folder: Path, recorded: Mapping[str, str] | None) -> None:
    """Compare an adapter or checkpoint with the checksums recorded when it was written; None: nothing is recorded yet.

    Raises:
        SourceError: a file is missing, was added or was altered.
    """
    if recorded is None:
        return
    found = checksums(folder)
    for name in sorted({*found, *recorded}):
        if found.get(name) != recorded.get(name):
            how = "is missing" if name not in found else "was altered" if name in recorded else "was added"
            raise SourceError(f"{folder / name} {how} since it was fitted; {REMEDY}")


def load_fitted(
    model_dir: Path, fitted: Path | None, device: torch.device, dtype: Precision
) -> PreTrainedModel | PeftModel:
    """Load the base model, the base model with a saved adapter, or a fully fine-tuned checkpoint.

    Args:
        model_dir: folder of the base model.
        fitted: folder of the adapter or checkpoint; None for the base model itself.
        device: device of the model.
        dtype: precision of the weights.

    Raises:
        SourceError: the model, the adapter or the checkpoint is damaged, or they do not belong together.
    """
    if fitted is None:
        return load_model(model_dir, device, dtype)
    if not (fitted / "adapter_config.json").is_file():
        return load_model(fitted, device, dtype, source=model_dir)
    return load_adapter(load_model(model_dir, device, dtype), fitted)


def load_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """Load a saved adapter onto a model, with a check that their tensors match.

    PEFT by itself loads the tensors that match and ignores the rest.

    Raises:
        SourceError: the adapter is damaged, pickled, has values that are not finite, or belongs to another model.
    """
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict

    _check_config(folder / CONFIG)
    stored = _shapes(folder / WEIGHTS)
    try:
        model = PeftModel.from_pretrained(base, str(folder))
        expected = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}
    except Exception as error:  # a damaged configuration can make PEFT raise anything
        if out_of_memory(error):
            raise
        raise SourceError(f"{folder}: the adapter does not fit the model ({brief(error)}); {REMEDY}") from None
    for name in sorted({*expected, *stored}):
        if expected.get(name) != stored.get(name):
            there, wanted = (shapes.get(name, "nothing") for shapes in (stored, expected))
            raise SourceError(
                f"{folder}: the adapter does not fit the model ({name}: the file has {there}, the model {wanted}); "
                "it was fitted to another model, or is damaged"
            )
    return model.eval()


def _check_config(file: Path) -> None:
    from peft import PeftType

    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{file} cannot be read ({brief(error)}); {REMEDY}") from None
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in PeftType.__members__:
        raise SourceError(f"{file}: no adapter type that PEFT knows (peft_type {kind!r}); {REMEDY}")


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of the stored tensors, and check that all values are finite."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        pickled = any(file.with_suffix(suffix).is_file() for suffix in (".bin", ".pt", ".pth"))
        found = "pickled weights, which are refused because loading them can run code" if pickled else "no weights"
        raise SourceError(f"{file} is missing ({found} in the folder); {REMEDY}")
    try:
        stored = load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise SourceError(f"{file} cannot be read ({brief(error)}); {REMEDY}") from None
    for name, tensor in stored.items():
        if not tensor.isfinite().all():
            raise SourceError(f"{file}: {name} holds values that are not finite; {REMEDY}")
    return {name: tuple(tensor.shape) for name, tensor in stored.items()}
