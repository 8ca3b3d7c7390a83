"""Configuration of a ``LOFIT`` adapter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from peft import PeftConfig, PeftType

from lofit.errors import EditError
from lofit.interventions.hook import NAME
from lofit.interventions.tuner.sites import SITES, SiteName


@dataclass
class LofitConfig(PeftConfig):
    """Configuration of a ``LOFIT`` adapter: what is edited, and with which vectors of ``z' = (1 + a) * z + v``.

    Attributes:
        site: ``head`` (input of the attention output projection, per query head), ``ffn`` (output of the feed-forward
            down projection) or ``block`` (output of the decoder layer, offsets only).
        heads: at ``head``: [layer, query head] pairs, both counted from 0; None stands for all heads of all layers.
        layers: at ``ffn`` and ``block``: layers counted from 0; None stands for all.
        positions: ``all``, or ``answer``: the last prompt token and all answer tokens, which ITI edits when it
            generates. An edit at answer positions cannot be merged, and the caller must give these positions
            (:mod:`lofit.interventions.spans`).
        scale: learn the scaling factors ``a``, one float32 vector of head dimension per head, or of the hidden size
            per layer.
        offset: learn the offset vectors ``v``, of the same shape.
        init_std: standard deviation of the normal initial values of the trained vectors; 0 starts from the
            unedited model. The LoFiT reference code (fc2869/lo-fit) uses 1e-3.
        init_seed: seed of the initial values. They are drawn on the CPU, per layer, so that a head starts from the
            same values on every device and whichever other heads are selected.

    The fields by which PEFT matches module names (``target_modules`` and those after it) are derived from the model
    and the fields above when the adapter is created; they are neither arguments nor part of the saved configuration.

    Raises:
        EditError: no vector is learned, the site cannot hold the edit, ``heads`` or ``layers`` is empty, malformed or
            has duplicates, or a value is negative.
    """

    site: SiteName = "head"
    heads: list[tuple[int, int]] | None = None
    layers: list[int] | None = None
    positions: Literal["all", "answer"] = "all"
    scale: bool = True
    offset: bool = False
    init_std: float = 0.0
    init_seed: int = 0
    target_modules: list[str] | None = field(init=False, default=None)
    layers_to_transform: list[int] | None = field(init=False, default=None)
    layers_pattern: str | None = field(init=False, default=None)
    target_parameters: list[str] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(NAME)
        if self.site not in SITES:
            raise EditError(f"site must be one of {', '.join(SITES)}, got {self.site!r}")
        if self.positions not in ("all", "answer"):
            raise EditError(f"positions must be all or answer, got {self.positions!r}")
        if not (self.scale or self.offset):
            raise EditError("a LofitConfig with scale and offset both off edits nothing; turn one of them on")
        if self.site == "block" and self.scale:
            raise EditError("the block site takes offsets only (the residual stream is a sum); give scale=False")
        if not (math.isfinite(self.init_std) and self.init_std >= 0):
            raise EditError(f"init_std must be a number >= 0, got {self.init_std}")
        if self.init_seed < 0:
            raise EditError(f"init_seed must be >= 0, got {self.init_seed}")
        absent, given = ("layers", "heads") if self.site == "head" else ("heads", "layers")
        if getattr(self, absent) is not None:
            raise EditError(f"the {self.site} site is selected by {given}, not by {absent}; remove {absent}")
        if self.heads is not None:
            self.heads = _checked(self.heads)
        if self.layers is not None:
            self.layers = _checked_layers(self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that define the adapter, as written to ``adapter_config.json``."""
        derived = {entry.name for entry in fields(self) if not entry.init}
        return {key: value for key, value in super().to_dict().items() if key not in derived}

    def edited_layers(self, n_layers: int) -> list[int]:
        """Return the layers in which something is edited, ascending."""
        if self.heads is not None:
            return sorted({layer for layer, _ in self.heads})
        return list(range(n_layers)) if self.layers is None else sorted(self.layers)

    def groups_in(self, layer: int, n_groups: int) -> list[int]:
        """Return what is edited in ``layer``, ascending: its selected heads, or group 0, the whole vector."""
        if self.heads is None:
            return list(range(n_groups))
        return sorted(head for at, head in self.heads if at == layer)


def _checked(heads: Any) -> list[tuple[int, int]]:
    pairs: dict[tuple[int, int], None] = {}
    for pair in heads:
        try:
            layer, head = (int(value) for value in pair)
            whole = [layer, head] == list(pair)
        except (TypeError, ValueError):
            whole = False
        if not whole:
            raise EditError(f"heads must be [layer, head] pairs of whole numbers, got {pair!r}")
        if layer < 0 or head < 0:
            raise EditError(f"heads counts layers and heads from 0, got ({layer}, {head})")
        if (layer, head) in pairs:
            raise EditError(f"heads names ({layer}, {head}) twice; name each head once")
        pairs[layer, head] = None
    if not pairs:
        raise EditError("heads is empty, so nothing would be edited; name at least one head, or None for all heads")
    return list(pairs)


def _checked_layers(layers: Any) -> list[int]:
    for layer in layers:
        if not isinstance(layer, int) or isinstance(layer, bool) or layer < 0:
            raise EditError(f"layers must be whole numbers from 0, got {layer!r}")
    if len(set(layers)) != len(layers):
        raise EditError(f"layers names one of {sorted(layers)} twice; name each layer once")
    if not layers:
        raise EditError("layers is empty, so nothing would be edited; name at least one layer, or None for all layers")
    return list(layers)
