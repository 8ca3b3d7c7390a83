"""Save merged models as plain ``transformers`` checkpoints that have a place for the bias of a folded offset.

Since ``W (z + v) = W z + W v``, a folded offset vector becomes a bias of the edited projection, where most families
have none. ``from_pretrained`` drops a bias that the configuration does not call for, with no more than a line in a log.
So a merged model is saved only in a form that its configuration describes completely:

1. as it is, if the family has that bias (GPT-2, GPT-NeoX, OPT, Phi) or nothing but scaling factors were folded;
2. with switches of the family's configuration turned on: ``attention_bias`` (Llama, Gemma, Qwen3) or ``mlp_bias``
   (Llama, SmolLM3, Granite);
3. as a Llama, which computes the same function and has both (Qwen2, and Mistral without sliding window).

Biases that a switch brings along are written out as zeros.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from lofit.errors import EditError
from lofit.files import read_json, user_folder
from lofit.interventions.prompt import virtual_tokens
from lofit.interventions.tuner.sites import find_site

# Families with the same forward pass as Llama except for biases; their configurations share these fields.
_LLAMA_TWINS = {"MistralForCausalLM", "Qwen2ForCausalLM"}
_LLAMA_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "rope_parameters",
    "attention_dropout",
)


_CANNOT = "the adapter cannot be merged ({}); keep it and load it with peft"


@dataclass(frozen=True)
class _Form:
    """A model class and configuration that can hold a set of weights, and the biases to write as zeros."""

    model_class: type[PreTrainedModel]
    config: PretrainedConfig
    switches: tuple[str, ...]
    zeros: dict[str, int]

    def empty(self) -> PreTrainedModel:
        """Build the model without allocating its weights."""
        return _empty(self.model_class, self.config)


def _empty(model_class: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return model_class(copy.deepcopy(config))


def _fitting_zeros(empty: PreTrainedModel, names: set[str]) -> dict[str, int] | None:
    """Return the biases (name to size) that ``empty`` has beyond ``names``; None if the two differ otherwise."""
    state = empty.state_dict()
    if not names <= set(state):
        return None
    zeros = {}
    for name in set(state) - names:
        module, _, leaf = name.rpartition(".")
        if leaf != "bias" or not isinstance(empty.get_submodule(module), nn.Linear | Conv1D):
            return None
        zeros[name] = state[name].numel()
    return zeros


def _find_form(model: PreTrainedModel, names: set[str]) -> _Form | None:
    """Return a form, of the same class as the model if possible, that holds the weights called ``names``; or None."""
    classes: list[tuple[type[PreTrainedModel], Any]] = [(type(model), model.config)]
    if llama := _as_llama(model):
        classes.append((LlamaForCausalLM, llama))
    for model_class, config in classes:
        for switches in _bias_switches(config):
            switched = copy.deepcopy(config)
            _turn_on(switched, switches)
            zeros = _fitting_zeros(_empty(model_class, switched), names)
            if zeros is not None:
                return _Form(model_class, switched, switches, zeros)
    return None


def _bias_switches(config: Any) -> Iterator[tuple[str, ...]]:
    """Yield no switch, then each switch of the configuration that might add biases, then each two of them."""
    text = config.get_text_config().to_dict()
    switches = sorted(key for key, value in text.items() if value is False and "bias" in key)
    for size in range(3):
        yield from combinations(switches, size)


def _turn_on(config: Any, switches: tuple[str, ...]) -> None:
    for switch in switches:
        setattr(config.get_text_config(), switch, True)


def _as_llama(model: PreTrainedModel) -> LlamaConfig | None:
    """Return the configuration of a Llama that computes the same function, or None if there is none."""
    config = model.config
    if type(model).__name__ not in _LLAMA_TWINS:
        return None
    # Qwen2 carries a window size that counts only where its layer types say so; Mistral's window always counts.
    kinds = getattr(config, "layer_types", None)
    if any(kind != "full_attention" for kind in kinds or []):
        return None
    if kinds is None and getattr(config, "sliding_window", None) is not None:
        return None
    shared = {name: copy.deepcopy(getattr(config, name)) for name in _LLAMA_FIELDS}
    return LlamaConfig(**shared, head_dim=find_site(model).width, attention_bias=False, mlp_bias=False)


def reconcile_bias(model: nn.Module) -> None:
    """Make a merged model and its configuration agree, in place, so that saving it loses nothing.

    This turns on the family's bias switch and adds zero biases where the configuration now calls for them. If the
    family has no switch, the model stays exact in memory, but from now on its ``save_pretrained`` raises an EditError.
    Anything but a ``transformers`` model is left unchanged.
    """
    if not isinstance(model, PreTrainedModel):
        return
    form = _find_form(model, set(model.state_dict()))
    if form is None or form.model_class is not type(model):
        way_out = "keep the adapter and load it with peft" if form is None else "write it with lofit's export_merged"
        model.save_pretrained = partial(_refuse_to_save, type(model).__name__, way_out)  # type: ignore[method-assign]
        return
    _turn_on(model.config, form.switches)
    for name, size in form.zeros.items():
        module: Any = model.get_submodule(name.rpartition(".")[0])
        module.bias = nn.Parameter(module.weight.new_zeros(size), requires_grad=False)


def _refuse_to_save(kind: str, way_out: str, *args: Any, **kwargs: Any) -> None:
    raise EditError(
        f"{kind} has no place for the bias of a folded offset, so save_pretrained would lose it; "
        f"{way_out} from the unmerged adapter model"
    )


def export_merged(peft_model: PeftModel, folder: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Write the model with its active adapters merged as a plain ``transformers`` checkpoint.

    The checkpoint can be loaded without lofit and peft. The adapter model is unchanged afterwards: a LOFIT merge is
    undone exactly, and that of another PEFT method as exactly as the method allows. An adapter that is already merged
    is exported and stays merged. The weights are not copied in memory.

    Args:
        peft_model: a model with adapters of any PEFT method that can be merged.
        folder: output folder, written completely or not at all; it must be missing, empty, or written by an earlier
            call and unchanged since.
        tokenizer: saved alongside if given.

    Raises:
        EditError: the model cannot be merged, or its family cannot hold a folded offset.
        LofitError: ``folder`` holds anything else.
    """
    if virtual_tokens(peft_model):
        raise EditError(_CANNOT.format("virtual tokens are not part of its weights"))
    tuner: Any = peft_model.base_model
    model = peft_model.get_base_model()
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if not layers or not isinstance(model, PreTrainedModel):
        raise EditError(
            f"nothing to merge: {type(peft_model).__name__} holds no adapter layers of a transformers model"
        )
    merge_here = not any(layer.merged for layer in layers)
    try:
        if merge_here:
            _merge(tuner)
        weights = _plain_weights(model)
        form = _find_form(model, set(weights))
        if form is None:
            raise EditError(
                f"{type(model).__name__} has no place for the bias of a folded offset and no exact twin that has; "
                "keep the adapter and load it with peft"
            )
        for name, size in form.zeros.items():
            weights[name] = weights[name.removesuffix("bias") + "weight"].new_zeros(size)
        _write(model, form, weights, Path(folder), tokenizer)
    finally:
        if merge_here and any(layer.merged for layer in layers):
            tuner.unmerge_adapter()


def _merge(tuner: Any) -> None:
    """Merge the active adapters of any PEFT method; if it refuses, raise an EditError with its reason in one line."""
    try:
        tuner.merge_adapter()
    except EditError:
        raise
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise EditError(_CANNOT.format(reason)) from None


def _plain_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of ``model`` under the names it has without adapter layers."""
    weights = model.state_dict()
    for path, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            for name in [name for name in weights if name.startswith(f"{path}.")]:
                tensor = weights.pop(name)
                if name.startswith(f"{path}.base_layer."):
                    weights[name.replace(f"{path}.base_layer.", f"{path}.")] = tensor
    return weights


def _write(
    model: PreTrainedModel,
    form: _Form,
    weights: dict[str, torch.Tensor],
    folder: Path,
    tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    plain: Any = form.empty()
    plain.load_state_dict(weights, assign=True)
    plain.tie_weights()
    plain.generation_config = copy.deepcopy(getattr(model, "generation_config", None))
    if form.model_class is type(model) and hasattr(model, "_weight_conversions"):
        plain._weight_conversions = model._weight_conversions  # names on disk differ from those in memory
    with user_folder(folder) as part:
        plain.save_pretrained(part)
        if tokenizer is not None:
            tokenizer.save_pretrained(part)


def bias_passed_over_by_vllm(folder: Path, before: PretrainedConfig) -> str | None:
    """Return a sentence if vLLM would load an exported checkpoint without its edit and without an error, else None.

    Of the families whose configuration can add biases, vLLM supports that for Llama only: its gemma.py, qwen3.py and
    olmo2.py build the output projection without a bias, and its loader skips a bias that has no place.

    Args:
        folder: what :func:`export_merged` wrote.
        before: configuration of the model without the edit.
    """
    written, base = read_json(folder / "config.json"), before.get_text_config().to_dict()
    text, (kind,) = written.get("text_config", written), written["architectures"]
    added = [key for key, value in text.items() if "bias" in key and value is True and not base.get(key)]
    return f"vllm has no place for this edit's bias in {kind}" if added and kind != "LlamaForCausalLM" else None
