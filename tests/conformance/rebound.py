"""PEFT's tests of decoder models, bound to this project's adapter types and tiny models.

Not collected by itself: ``test_peft_suite.py`` runs it in a process of its own, with the folder of PEFT's tests (as the
package ``peft_suite``) and that of the models in the environment. Nothing of PEFT's is changed or copied: a test
function is taken over with other values in place of the lists that PEFT runs it with, and hidden if it has none.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import lofit  # noqa: F401
from lofit.interventions import LofitConfig

# PEFT's common module imports diffusers at its top and uses it for other models only.
_stub = types.ModuleType("diffusers")
_stub.__spec__ = importlib.machinery.ModuleSpec("diffusers", None)
_stub.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})  # type: ignore[attr-defined]
sys.modules["diffusers"] = _stub

from peft_suite import test_decoder_models as decoder  # noqa: E402
from peft_suite import testing_common as common  # noqa: E402
from peft_suite import testing_utils as utils  # noqa: E402

MODELS = [str(path) for path in sorted(Path(os.environ["CONFORMANCE_MODELS"]).iterdir())]
CONFIGS = [
    (LofitConfig, {"task_type": "CAUSAL_LM", "heads": [[0, 1], [1, 3]], "scale": True, "offset": True}),
    (LofitConfig, {"task_type": "CAUSAL_LM", "scale": True}),
    (LofitConfig, {"task_type": "CAUSAL_LM", "site": "ffn", "offset": True}),
    (LofitConfig, {"task_type": "CAUSAL_LM", "site": "block", "layers": [0, 1], "scale": False, "offset": True}),
]
REBOUND = ((decoder.ALL_CONFIGS, CONFIGS), (decoder.PEFT_DECODER_MODELS_TO_TEST, MODELS))


def _far_from_identity(config_cls: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What PEFT asks by ``init_weights=False``, in our words."""
    return kwargs | {"init_std": 0.3}


for _module in (decoder, common, utils):
    if hasattr(_module, "set_init_weights_false"):
        _module.set_init_weights_false = _far_from_identity  # type: ignore[attr-defined]
for _model in MODELS:
    utils._HUB_MODEL_ACCESSES[_model] = 1  # known already, so the hub is not asked


def _taken_over(name: str) -> Any:
    """A copy of a test of PEFT with our values, or None if it is not run over models and configurations."""
    function = getattr(decoder.TestDecoderModels, name)
    marks, bound = [], 0
    for mark in getattr(function, "pytestmark", []):
        for theirs, ours in REBOUND:
            if mark.name == "parametrize" and mark.args[1] is theirs:
                mark = pytest.mark.parametrize(mark.args[0], ours).mark
                bound += 1
        marks.append(mark)
    if bound < len(REBOUND):
        return None
    code = function.__code__
    copy = types.FunctionType(code, function.__globals__, name, function.__defaults__, function.__closure__)
    copy.pytestmark = marks  # type: ignore[attr-defined]
    return copy


TestRebound = type(
    "TestRebound",
    (decoder.TestDecoderModels,),
    {name: _taken_over(name) for name in dir(decoder.TestDecoderModels) if name.startswith("test_")},
)
