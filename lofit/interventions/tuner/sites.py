"""Where the attention heads of a decoder-only model can be edited, found by module names and shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from lofit.errors import EditError

# Names that transformers and common remote code give to the attention output projection.
_PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense", "wo", "out_lin")
# Parts of the module path of an encoder for another modality; its layers are not the language model's.
_OTHER_TOWERS = ("vision", "visual", "image", "audio", "speech")


@dataclass(frozen=True)
class HeadSite:
    """The input of the attention output projection, seen as [query heads, head dimension], in every decoder layer.

    Attributes:
        layers: module path of the list of decoder layers, such as ``model.layers``.
        suffix: module path of the output projection inside a layer, such as ``self_attn.o_proj``.
        n_layers: number of decoder layers.
        n_heads: number of query heads per layer (under grouped queries too, never the key-value heads).
        head_dim: width of one head; need not be hidden size / heads (Gemma, Qwen3).
    """

    layers: str
    suffix: str
    n_layers: int
    n_heads: int
    head_dim: int

    def module_name(self, layer: int) -> str:
        """Return the module path of the output projection of ``layer``."""
        return f"{self.layers}.{layer}.{self.suffix}"


def find_head_site(model: nn.Module) -> HeadSite:
    """Locate the attention output projections of a decoder-only ``transformers`` model.

    The decoder is the module list of ``num_hidden_layers`` entries in each of which one linear map below an attention
    module bears the name of an output projection and reads heads x head dimension features. PEFT models, of any
    method, are looked through.

    Raises:
        EditError: there is no such list, several, or one on which an edit would not act.
    """
    base: Any = model
    if hasattr(base, "get_base_model"):
        base = base.get_base_model()
    config = getattr(base, "config", None)
    kind = type(base).__name__
    if config is None or not hasattr(config, "get_text_config"):
        raise EditError(f"{kind} has no transformers configuration; heads can be edited in transformers models only")
    if getattr(config, "is_encoder_decoder", False):
        raise EditError(f"{kind} is an encoder-decoder; heads can be edited in decoder-only models only")
    config = config.get_text_config()
    n_layers, n_heads = config.num_hidden_layers, config.num_attention_heads

    found, problems = [], []
    for name, module in base.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) != n_layers:
            continue
        if any(tower in part for part in name.split(".") for tower in _OTHER_TOWERS):
            continue
        try:
            suffix, width = _common_projection(name, module)
        except EditError as error:
            problems.append(str(error))
            continue
        found.append(HeadSite(name, suffix, n_layers, n_heads, _head_dim(config, kind, name, suffix, width)))
    if len(found) > 1:
        raise EditError(
            f"{kind} has {len(found)} lists of {n_layers} decoder layers with attention "
            f"({', '.join(site.layers for site in found)}); pass the language model alone"
        )
    if not found:
        reason = problems[0] if problems else f"no module list has num_hidden_layers = {n_layers} entries"
        raise EditError(f"no attention output projection found in {kind}: {reason}; this family cannot be edited")
    return found[0]


def _common_projection(layers: str, blocks: nn.ModuleList) -> tuple[str, int]:
    """Return the path of the output projection inside a block and its input width; the same in every block."""
    common: tuple[str, int] | None = None
    for index, block in enumerate(blocks):
        candidates = [
            (name, width) for name, module in block.named_modules() if (width := _projection_width(name, module))
        ]
        if len(candidates) != 1:
            names = ", ".join(name for name, _ in candidates) or "none"
            raise EditError(f"{layers}.{index} must have one attention output projection, found {names}")
        if common is not None and candidates[0] != common:
            raise EditError(f"the attention of {layers}.{index} is not built like that of {layers}.0")
        common = candidates[0]
    if common is None:
        raise EditError(f"{layers} has no layers")
    return common


def _projection_width(name: str, module: Any) -> int | None:
    """Return the input width if ``module`` is a self-attention's output projection, else None."""
    *parents, leaf = name.split(".")
    if leaf not in _PROJECTIONS or not parents or "cross" in name:
        return None
    if "attn" not in parents[-1].lower() and "attention" not in parents[-1].lower():
        return None
    base = module.get_base_layer() if hasattr(module, "get_base_layer") else module
    if isinstance(base, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return None  # inside torch's fused attention, which reads the weight and never calls the module
    if isinstance(base, nn.Linear):
        return base.in_features
    return base.weight.shape[0] if isinstance(base, Conv1D) else None


def _head_dim(config: Any, kind: str, layers: str, suffix: str, width: int) -> int:
    n_heads: int = config.num_attention_heads
    # Multi-head latent attention names the width of the values, which is what this site holds.
    declared = getattr(config, "v_head_dim", None) or getattr(config, "head_dim", None)
    head_dim = declared or width // n_heads
    if n_heads * head_dim != width:
        raise EditError(
            f"{kind}: {layers}.*.{suffix} reads {width} features, which is not {n_heads} heads x {head_dim}; "
            "this family cannot be edited"
        )
    return head_dim
