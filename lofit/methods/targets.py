"""Which modules PEFT's methods act on in families that PEFT has no choice for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def default_targets(model: PreTrainedModel, known: Mapping[str, Any], names: Sequence[str]) -> list[str] | None:
    """None, that is, PEFT's choice, where PEFT knows the family; else ``names``, those of Llama, if the model has them.

    Args:
        model: the model to adapt.
        known: PEFT's table from family to modules.
        names: names of modules.
    """
    if model.config.get_text_config().model_type in known or model.config.model_type in known:
        return None
    found = {path.rpartition(".")[2] for path, _ in model.named_modules()}
    return list(names) if found >= set(names) else None
