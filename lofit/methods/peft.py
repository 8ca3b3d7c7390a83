"""Any adapter of the installed PEFT, by PEFT's own configuration, in the loop, budget and scorer of the others."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, create_model, field_validator, model_validator

from lofit.errors import EditError, brief
from lofit.methods.method import Method, trains
from lofit.methods.targets import QUERY_VALUE, Layers, TargetParams, Targets
from lofit.registry import unknown
from lofit.spec.base import as_number

if TYPE_CHECKING:
    from peft import PeftConfig

    from lofit.training.context import FitContext

SEEDS = ("projection_prng_key", "random_seed", "random_loc_seed", "projection_seed", "proj_seed", "generator_seed")
"""Fields by which types of PEFT seed what they draw; they get the seed of the run."""
_AS_IT_TRAINS = "its ranks or masks change while it trains, which this training loop does not do"
REFUSED = {
    **dict.fromkeys(("ADALORA", "ADAMSS"), _AS_IT_TRAINS),
    "LILY": "its router averages over all tokens of a batch, so scores would depend on what follows and on the batch",
    "PVERA": "it draws noise in training mode, which models are never in here",
    **dict.fromkeys(
        ("POLY", "XLORA", "SHADOW", "TRAINABLE_TOKENS", "MULTITASK_PROMPT_TUNING"),
        "it takes inputs that no task here has",
    ),
    "ADAPTION_PROMPT": "it replaces the attention of a few families alone",
    "CARTRIDGE": "it stands for one long text, which no task here has",
    "CPT": "it has a loss of its own, over the examples that it starts from",
    **dict.fromkeys(("LOFIT", "LOREFT"), "methods of this suite make it: lofit, red, loreft and others"),
}
"""Types that do not fit, and why."""
_INITIAL = (True, False, "gaussian", "orthogonal")
"""Initial values of LoRA that leave the base model as it is; of the others, ``pissa`` is a method here."""
_PER_TEXT = ("alora_invocation_tokens", "arrow_config", "monteclora_config")
"""Fields by which LoRA looks for a text in its row, where several texts are in one row here, or routes, or samples."""
_OWN_DROPOUT = ("module_dropout", "rank_dropout", "boft_dropout", "encoder_dropout")
"""Dropout that PEFT draws itself, from a generator that no seed of the run reaches."""


class Params(TargetParams):
    """Hyperparameters of a type of PEFT."""

    config: dict[str, Any] = Field(
        description="`peft_type`, and fields of PEFT's configuration of that type that are not to be its defaults; "
        "modules are named by target_modules, beside it"
    )

    @field_validator("config")
    @classmethod
    def _known(cls, given: dict[str, Any]) -> dict[str, Any]:
        given = {name: as_number(value) for name, value in given.items()}
        if isinstance(own := cls.model_fields["config"].default, dict):
            given = own | given
            if given["peft_type"] != own["peft_type"]:
                raise ValueError(f"this method is of peft_type {own['peft_type']}; the method peft takes any")
        known = {entry.name for entry in fields(_form(given))}
        if reason := REFUSED.get(str(given["peft_type"])):
            raise ValueError(f"peft_type {given['peft_type']} does not fit: {reason}; choose another")
        for name, value in given.items():
            if name in ("target_modules", "exclude_modules", "task_type", "inference_mode"):
                raise ValueError(f"'{name}' is not part of it; name target_modules beside it, or leave it out")
            if name not in known:
                raise ValueError(unknown(f"field of {given['peft_type']}", name, known))
            if name == "init_lora_weights" and value not in _INITIAL:
                raise ValueError(f"init_lora_weights {value!r} changes the base model, or reads data; leave it out")
            if name == "boft_n_butterfly_factor" and value != 1:
                raise ValueError(f"'{name}' other than 1 needs an extension that PEFT may not find; leave it at 1")
            if name in _PER_TEXT and value:
                raise ValueError(f"'{name}' makes LoRA read, route or sample texts by itself; leave it out")
            if name in _OWN_DROPOUT and value:
                raise ValueError(f"'{name}' is drawn outside the seeds of a run; leave it at 0")
            if name == "prompt_tuning_init" and value not in ("RANDOM", "SAMPLE_VOCAB"):
                raise ValueError("prompt_tuning_init must be RANDOM or SAMPLE_VOCAB; TEXT asks the hub for a tokenizer")
        n = given.get("num_virtual_tokens")
        if "num_virtual_tokens" in known and not (type(n) is int and n > 0):
            raise ValueError(f"peft_type {given['peft_type']} needs num_virtual_tokens, 1 or more; set it")
        return given

    @model_validator(mode="after")
    def _no_modules_of_prompts(self) -> Self:
        if self.target_modules and _learns_prompt(self.config):
            raise ValueError(f"peft_type {self.config['peft_type']} adapts no modules; leave out target_modules")
        return self


def _form(given: dict[str, Any]) -> Any:
    """PEFT's class of a configuration."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT imports it, and it tells what it did not find
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    forms = {str(getattr(kind, "value", kind)): form for kind, form in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if not isinstance(given.get("peft_type"), str) or given["peft_type"] not in forms:
        raise ValueError(f"peft_type must be one of {', '.join(sorted(set(forms) - set(REFUSED)))}")
    return forms[given["peft_type"]]


def _learns_prompt(given: dict[str, Any]) -> bool:
    from peft.config import PromptLearningConfig

    return issubclass(_form(given), PromptLearningConfig)


def adapter(params: Params, context: FitContext) -> PeftConfig:
    """Configure a type of PEFT on modules of the language model alone, or in front of its texts.

    Raises:
        EditError: the model lacks the modules, or PEFT refuses the configuration.
    """
    given, form = dict(params.config), _form(params.config)
    kind, known = given.pop("peft_type"), {entry.name for entry in fields(form)}
    where: dict[str, Any] = {}
    if not _learns_prompt(params.config):
        targets = _targets(kind, params, context)
        where = targets.by_name if "exclude_modules" in known else targets.by_pattern
    drawn = {name: context.seed for name in SEEDS if name in known}
    if "save_projection" in known:
        drawn["save_projection"] = False  # it is drawn again from the seed
    try:
        made: PeftConfig = form(task_type="CAUSAL_LM", **where, **(drawn | given))
    except (TypeError, ValueError) as error:
        raise EditError(f"config: PEFT refuses it ({brief(error)}); correct it") from None
    return made


def _targets(kind: str, params: Params, context: FitContext) -> Targets:
    """Modules that the configuration names, or PEFT's choice for the family; for norms, all of those in the layers."""
    from peft.utils import constants

    if kind == "LN_TUNING":
        norms = Layers(context.session.model, norms=True)
        return norms.targets(params.target_modules or sorted({path.rpartition(".")[2] for path in norms.paths}))
    known = getattr(constants, f"TRANSFORMERS_MODELS_TO_{kind}_TARGET_MODULES_MAPPING", {})
    return Layers(context.session.model).pick(params.target_modules, known, QUERY_VALUE, "query and value projection")


def preset(
    name: str,
    config: dict[str, Any],
    *,
    summary: str,
    source: str,
    learns: str,
    parameters: str,
    deviations: str = "none known",
    foldable: bool = True,
) -> Method:
    """Return the method that is a type of PEFT in one configuration; see :class:`Method` for the arguments."""
    own = create_model(f"{name.title()}Params", __base__=Params, config=(dict[str, Any], config), __module__=__name__)
    own.__doc__ = f"Hyperparameters of {name}."
    return Method(
        name=name,
        summary=summary,
        source=source,
        Params=own,
        learns=learns,
        parameters=parameters,
        deviations=deviations,
        foldable=foldable,
        fit=trains(adapter),
    )


METHOD = Method(
    name="peft",
    summary="any adapter of PEFT, by its own configuration",
    source="the configuration; huggingface/peft",
    Params=Params,
    learns="what the configured type learns, by gradient",
    parameters="those of the configured type",
    deviations="types that need more than a training loop are refused",
    fit=trains(adapter),
)
