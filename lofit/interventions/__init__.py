"""Localized edits of a model's representations as a PEFT method named ``LOFIT``.

An edit is ``z' = (1 + a) * z + v``, elementwise and at every position, where ``z`` is the attention-weighted sum of
values of one query head (the input of the attention output projection), the output of a feed-forward network, or the
residual stream. With the method registered, ``get_peft_model``, ``save_pretrained``, ``PeftModel.from_pretrained`` and
``merge_and_unload`` work as for LoRA.

Importing this package imports neither torch nor peft; the names below are loaded when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lofit.interventions.hook import register

if TYPE_CHECKING:
    from lofit.interventions.loreft.config import LoreftConfig
    from lofit.interventions.tuner.config import LofitConfig
    from lofit.interventions.tuner.fold import export_merged
    from lofit.interventions.tuner.model import LofitModel
    from lofit.interventions.tuner.parameters import head_norms, offsets_times, parameter_counts, set_vectors
    from lofit.interventions.tuner.sites import Site, find_site

__all__ = [
    "Head",
    "LofitConfig",
    "LofitModel",
    "LoreftConfig",
    "Site",
    "export_merged",
    "find_site",
    "head_norms",
    "offsets_times",
    "parameter_counts",
    "register",
    "set_vectors",
]

Head = tuple[int, int]
"""(layer, query head), both counted from 0."""

_MODULES = {
    "Site": "tuner.sites",
    "LofitConfig": "tuner.config",
    "LofitModel": "tuner.model",
    "LoreftConfig": "loreft.config",
    "export_merged": "tuner.fold",
    "find_site": "tuner.sites",
    "head_norms": "tuner.parameters",
    "offsets_times": "tuner.parameters",
    "parameter_counts": "tuner.parameters",
    "set_vectors": "tuner.parameters",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    register()
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
