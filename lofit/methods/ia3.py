"""(IA)3: scaling vectors on keys, values and the feed-forward activation, by PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit.methods.method import Method, trains
from lofit.methods.targets import FEED_FORWARD, KEY_VALUE, Layers, TargetParams, pattern

if TYPE_CHECKING:
    from peft import PeftConfig

    from lofit.training.context import FitContext


def adapter(params: TargetParams, context: FitContext) -> PeftConfig:
    """Configure PEFT's (IA)3 on its choice of modules for the model family, or on the modules that the user names.

    Raises:
        EditError: the model lacks the modules.
    """
    from peft import IA3Config
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as KNOWN_INSIDE
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as KNOWN

    layers = Layers(context.session.model)
    attention = {family: [n for n in names if n not in KNOWN_INSIDE.get(family, ())] for family, names in KNOWN.items()}
    inside = layers.choose(KNOWN_INSIDE, FEED_FORWARD)
    targets = layers.pick(params.target_modules, attention, KEY_VALUE, "key and value projection")
    if not params.target_modules:
        targets = layers.targets([*targets.names, *inside])
    names = {*inside, *(name for names in FEED_FORWARD for name in names)}
    scaled = {path for name in names for path in layers.find(name)}.intersection(targets.paths)
    return IA3Config(task_type="CAUSAL_LM", feedforward_modules=pattern(sorted(scaled)) or [], **targets.by_name)


METHOD = Method(
    name="ia3",
    summary="scaling vectors on keys, values and the feed-forward activation",
    source="Liu et al. 2022 (arXiv 2205.05638)",
    Params=TargetParams,
    learns="elementwise scales of the keys, the values and the input of the down projection, by gradient",
    parameters="out of key and value, in of the down projection, summed over layers",
    deviations="where experts are stacked in one tensor, only feed-forward activations outside them are scaled, if any",
    fit=trains(adapter),
)
