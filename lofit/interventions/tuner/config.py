"""Configuration of a ``LOFIT`` adapter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from peft import PeftConfig, PeftType

from lofit.errors import EditError
from lofit.interventions.hook import NAME


@dataclass
class LofitConfig(PeftConfig):
    """Which attention heads are edited, and with which vectors: ``z' = (1 + a) * z + v``.

    Attributes:
        heads: [layer, query head] pairs, both counted from 0; None stands for all heads of all layers.
        scale: learn the scaling factors ``a``, one float32 vector of head dimension per head.
        offset: learn the offset vectors ``v``, of the same shape.
        init_std: standard deviation of the normal initial values of the trained vectors; 0 starts from the
            unedited model. The LoFiT reference code (fc2869/lo-fit) uses 1e-3.
        init_seed: seed of the initial values. They are drawn on the CPU, per layer, so that a head starts from the
            same values on every device and whichever other heads are selected.

    The fields by which PEFT matches module names (``target_modules`` and those after it) are derived from the model
    and ``heads`` when the adapter is created; they are neither arguments nor part of the saved configuration.

    Raises:
        EditError: no vector is learned, ``heads`` is empty, malformed or has duplicates, or a value is negative.
    """

    heads: list[tuple[int, int]] | None = None
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
        if not (self.scale or self.offset):
            raise EditError("a LofitConfig with scale and offset both off edits nothing; turn one of them on")
        if not (math.isfinite(self.init_std) and self.init_std >= 0):
            raise EditError(f"init_std must be a number >= 0, got {self.init_std}")
        if self.init_seed < 0:
            raise EditError(f"init_seed must be >= 0, got {self.init_seed}")
        if self.heads is not None:
            self.heads = _checked(self.heads)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that define the adapter, as written to ``adapter_config.json``."""
        derived = {entry.name for entry in fields(self) if not entry.init}
        return {key: value for key, value in super().to_dict().items() if key not in derived}


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
