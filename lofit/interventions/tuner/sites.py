"""Where a decoder-only model can be edited, found by module names and shapes.

Three tensors of a decoder layer can be edited, each at a module that computes or reads it:

- ``head``: the input of the attention output projection, viewed as [query heads, head dimension];
- ``ffn``: the output of the feed-forward down projection, before it is added to the residual stream;
- ``block``: the output of the layer, which is the residual stream, edited at the module whose output is added to it
  last. There an offset adds to the stream, but the stream cannot be scaled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn
from transformers.pytorch_utils import Conv1D

from lofit.errors import EditError

SiteName = Literal["head", "ffn", "block"]
SITES: tuple[SiteName, ...] = get_args(SiteName)

# Names in transformers and in common remote code of the two projections back to the residual stream, and of the norm
# that some families have between the second one and the residual stream.
_ATTENTION_OUT = ("o_proj", "out_proj", "c_proj", "dense", "wo", "out_lin")
_FFN_OUT = ("down_proj", "c_proj", "fc2", "dense_4h_to_h", "w2", "fc_out", "lin2", "wo")
_FFN_NORM = (
    "post_feedforward_layernorm", "post_mlp_layernorm", "post_ffn_layernorm", "post_ffw_layernorm", "post_norm2",
)  # fmt: skip
# Parts of layers that scale what is added to the residual stream (MiniCPM3, Gemma 4), or mix it (Gemma 3n and 4).
_AFTER_FFN = ("residual_scale", "layer_scalar", "per_layer_input_gate", "altup")
_FFN_PARENTS = ("mlp", "ffn", "feed_forward", "feedforward")
# Parts of the module paths of encoders for other modalities and of their connectors, which have layers that do not
# belong to the language model.
_OTHER_TOWERS = ("vision", "visual", "image", "audio", "speech", "qformer", "perceiver", "resampler", "projector")


@dataclass(frozen=True)
class Site:
    """An editable tensor in every decoder layer, viewed as [groups, width].

    Attributes:
        name: ``head``, ``ffn`` or ``block``.
        side: whether the tensor is the ``input`` or the ``output`` of the module at which it is edited.
        layers: module path of the list of decoder layers, such as ``model.layers``.
        suffix: path of the module inside a layer, such as ``self_attn.o_proj``.
        n_layers: number of decoder layers.
        groups: number of query heads at ``head`` (not of key-value heads, with grouped-query attention), else 1.
        width: width of one head, which need not be hidden size / heads (Gemma, Qwen3), else the hidden size.
        gain: factor by which the model multiplies the tensor before adding it to the residual stream (Granite).
    """

    name: SiteName
    side: Literal["input", "output"]
    layers: str
    suffix: str
    n_layers: int
    groups: int
    width: int
    gain: float = 1.0

    def module_name(self, layer: int) -> str:
        """Return the module path of the edited module of ``layer``."""
        return f"{self.layers}.{layer}.{self.suffix}"


def find_site(model: nn.Module, name: SiteName = "head") -> Site:
    """Locate a site in a decoder-only ``transformers`` model.

    The decoder is the module list of ``num_hidden_layers`` entries in which every entry has exactly one module, the
    same in all of them, with the names and shapes of the site. For a PEFT model, of any method, the base model is
    searched.

    Raises:
        EditError: there is no such list, there are several, or an edit of the list would have no effect.
    """
    base, config = _decoder(model)
    kind, n_layers = type(base).__name__, getattr(config, "num_hidden_layers", None)
    found, problems = [], []
    for path, module in language_layers(model):
        try:
            found.append(_site_in(name, kind, config, path, module))
        except _Absent as error:
            problems.append(str(error))
    if len(found) > 1:
        raise EditError(
            f"{kind} has {len(found)} lists of {n_layers} decoder layers with attention "
            f"({', '.join(site.layers for site in found)}); pass the language model alone"
        )
    if not found:
        reason = problems[0] if problems else f"no module list has num_hidden_layers = {n_layers} entries"
        raise EditError(f"no place for a {name} edit found in {kind}: {reason}; this family cannot be edited there")
    return found[0]


def language_layers(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """Return path and modules of every list that can be the decoder layers of the language model.

    These are the lists of ``num_hidden_layers`` entries outside the encoders of other modalities, such as the vision
    tower of Gemma 3. For a PEFT model, the base model is searched.

    Raises:
        EditError: the model is not a decoder-only ``transformers`` model.
    """
    base, config = _decoder(model)
    n_layers = getattr(config, "num_hidden_layers", None)
    return [
        (path, module)
        for path, module in base.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == n_layers
        and not any(tower in part for part in path.split(".") for tower in _OTHER_TOWERS)
    ]


def _decoder(model: nn.Module) -> tuple[nn.Module, Any]:
    """Return the model without its adapters, and the configuration of its language model."""
    base: Any = model
    if hasattr(base, "get_base_model"):
        base = base.get_base_model()
    config = getattr(base, "config", None)
    kind = type(base).__name__
    if config is None or not hasattr(config, "get_text_config"):
        raise EditError(f"{kind} has no transformers configuration; only transformers models can be edited")
    if getattr(config, "is_encoder_decoder", False):
        raise EditError(f"{kind} is an encoder-decoder; only decoder-only models can be edited")
    return base, config.get_text_config()


class _Absent(Exception):
    """A list of modules that does not have the site."""


def _site_in(name: SiteName, kind: str, config: Any, layers: str, blocks: nn.ModuleList) -> Site:
    if name == "head":
        suffix, width = _common(layers, blocks, "attention output projection", _attention_out)
        return Site(
            name, "input", layers, suffix, len(blocks), config.num_attention_heads,
            _head_dim(config, kind, f"{layers}.*.{suffix}", width),
        )  # fmt: skip
    if name == "block":
        if getattr(config, "do_layer_norm_before", True) is False:
            raise EditError(f"{kind} normalises after the residual sum, so no module's output is added to it last")
        if after := next((part for part in _AFTER_FFN if hasattr(blocks[0], part)), None):
            raise EditError(
                f"{kind} changes what a layer adds to the residual stream ({after}), so nothing is added last"
            )
        if any(_ffn_norm(path, module) for path, module in blocks[0].named_modules()):
            suffix, _ = _common(layers, blocks, "norm of the feed-forward output", _ffn_norm)
            return Site(name, "output", layers, suffix, len(blocks), 1, config.hidden_size)
    suffix, width = _common(layers, blocks, "feed-forward down projection", _ffn_out)
    if width != config.hidden_size:
        raise _Absent(f"{layers}.*.{suffix} writes {width} features, not the hidden size {config.hidden_size}")
    gain = getattr(config, "residual_multiplier", 1.0) if name == "block" else 1.0
    return Site(name, "output", layers, suffix, len(blocks), 1, width, float(gain))


def _common(
    layers: str, blocks: nn.ModuleList, what: str, width_of: Callable[[str, Any], int | None]
) -> tuple[str, int]:
    """Return path and width, the same in every block, of the one module for which ``width_of`` gives a width."""
    common: tuple[str, int] | None = None
    for index, wrapped in enumerate(blocks):
        block: Any = wrapped
        if hasattr(block, "get_base_layer"):
            block = block.get_base_layer()
        candidates = [(path, width) for path, module in block.named_modules() if (width := width_of(path, module))]
        if len(candidates) != 1:
            shown = ", ".join(path for path, _ in candidates[:3]) or "none"
            raise _Absent(f"{layers}.{index} must have one {what}, found {shown}")
        if common is not None and candidates[0] != common:
            raise _Absent(f"the {what} of {layers}.{index} is not built like that of {layers}.0")
        common = candidates[0]
    if common is None:
        raise _Absent(f"{layers} has no layers")
    return common


def linear_features(module: Any) -> tuple[int, int] | None:
    """Return the input and output widths of a linear map, with or without adapters; None for any other module."""
    base = module.get_base_layer() if hasattr(module, "get_base_layer") else module
    if isinstance(base, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return None  # inside torch's fused attention, which reads the weight and never calls the module
    if isinstance(base, nn.Linear):
        return base.in_features, base.out_features
    return tuple(base.weight.shape) if isinstance(base, Conv1D) else None


def _attention_out(path: str, module: Any) -> int | None:
    """Return the input width if ``module`` is a self-attention's output projection, else None."""
    *parents, leaf = path.split(".")
    if leaf not in _ATTENTION_OUT or not parents or "cross" in path:
        return None
    if "attn" not in parents[-1].lower() and "attention" not in parents[-1].lower():
        return None
    features = linear_features(module)
    return features and features[0]


def _ffn_out(path: str, module: Any) -> int | None:
    """Return the output width if ``module`` is a feed-forward network's second projection, else None."""
    *parents, leaf = path.split(".")
    if leaf not in _FFN_OUT or (parents and not any(part in _FFN_PARENTS for part in parents)):
        return None
    features = linear_features(module)
    return features and features[1]


def _ffn_norm(path: str, module: Any) -> int | None:
    """Return a width (1) if ``module`` is a norm between the feed-forward output and the residual stream."""
    return 1 if path in _FFN_NORM and not isinstance(module, nn.Identity) else None


def _head_dim(config: Any, kind: str, path: str, width: int) -> int:
    n_heads: int = config.num_attention_heads
    # Multi-head latent attention declares the width of the values, which this site holds, under a separate name.
    declared = getattr(config, "v_head_dim", None) or getattr(config, "head_dim", None)
    head_dim = declared or width // n_heads
    if n_heads * head_dim != width:
        raise EditError(
            f"{kind}: {path} reads {width} features, which is not {n_heads} heads x {head_dim}; "
            "this family cannot be edited"
        )
    return head_dim
