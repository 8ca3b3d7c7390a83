"""Localized edits of attention heads as a PEFT method named ``LOFIT``.

An edit is ``z' = (1 + a) * z + v``, elementwise and at every position, where ``z`` (one vector per query head) is the
attention-weighted sum of values: the input of the attention output projection. With the method registered,
``get_peft_model``, ``save_pretrained``, ``PeftModel.from_pretrained`` and ``merge_and_unload`` work as for LoRA.

Importing this package imports neither torch nor peft; the names below are loaded when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lofit.interventions.hook import register

if TYPE_CHECKING:
    from lofit.interventions.tuner.config import LofitConfig
    from lofit.interventions.tuner.fold import export_merged
    from lofit.interventions.tuner.model import LofitModel
    from lofit.interventions.tuner.parameters import head_norms, parameter_counts
    from lofit.interventions.tuner.sites import HeadSite, find_head_site

__all__ = [
    "HeadSite",
    "LofitConfig",
    "LofitModel",
    "export_merged",
    "find_head_site",
    "head_norms",
    "parameter_counts",
    "register",
]

_MODULES = {
    "HeadSite": "sites",
    "LofitConfig": "config",
    "LofitModel": "model",
    "export_merged": "fold",
    "find_head_site": "sites",
    "head_norms": "parameters",
    "parameter_counts": "parameters",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    register()
    return getattr(importlib.import_module(f"{__name__}.tuner.{_MODULES[name]}"), name)
