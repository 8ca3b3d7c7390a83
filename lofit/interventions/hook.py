"""Make the methods ``LOFIT`` and ``LOREFT`` known to PEFT, at once or as soon as PEFT has been imported.

PEFT has no plugin mechanism: a method is known once its name is a member of the ``PeftType`` enumeration and its
classes are in PEFT's tables. Doing that right after ``import peft`` keeps ``import lofit`` light, and adapters load
whichever of the two packages is imported first.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from lofit.errors import EditError

NAME = "LOFIT"
LOREFT = "LOREFT"


def register() -> None:
    """Register the methods ``LOFIT`` and ``LOREFT`` with PEFT, which is imported; further calls do nothing.

    Raises:
        EditError: PEFT already has another method with one of these names.
    """
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import register_peft_method

    for name, package, cls in ((NAME, "tuner", "Lofit"), (LOREFT, "loreft", "Loreft")):
        config = getattr(importlib.import_module(f"lofit.interventions.{package}.config"), f"{cls}Config")
        model = getattr(importlib.import_module(f"lofit.interventions.{package}.model"), f"{cls}Model")
        if name not in peft.PeftType.__members__:
            _add_peft_type(name)
            register_peft_method(name=name.lower(), config_cls=config, model_cls=model)
        elif PEFT_TYPE_TO_CONFIG_MAPPING.get(peft.PeftType(name)) is not config:
            raise EditError(
                f"peft {peft.__version__} already has another method named {name}; install the peft version that this "
                "release of lofit was tested with"
            )


def _add_peft_type(name: str) -> None:
    """Add a member to PEFT's closed string enumeration, as its class statement would have done."""
    from peft import PeftType

    member: Any = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member._sort_order_ = len(PeftType.__members__)
    member.__objclass__ = PeftType
    PeftType._member_map_[name] = member
    PeftType._member_names_.append(name)
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)


def register_after_peft_import() -> None:
    """Register now if peft has been imported, else right after its first import."""
    if "peft" in sys.modules:
        register()
    elif not any(isinstance(finder, _PeftFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PeftFinder())


class _PeftFinder:
    """Import finder that lets the other finders locate peft, and registers the methods once peft is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "peft":
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self._call_register_after(spec)
                return spec
        return None

    def _call_register_after(self, spec: ModuleSpec) -> None:
        loader = spec.loader
        assert loader is not None
        execute = loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            del loader.exec_module
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            register()

        loader.exec_module = execute_and_register  # type: ignore[method-assign]
