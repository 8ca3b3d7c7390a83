"""Configuration of a ``LOREFT`` adapter."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from peft import PeftConfig, PeftType

from lofit.errors import EditError
from lofit.interventions.hook import LOREFT


@dataclass
class LoreftConfig(PeftConfig):
    """Low-rank edits of the residual stream, h' = h + change.

    Attributes:
        form: ``loreft``: R^T (W h + b - R h), at the first and last prompt tokens; ``linear``: U W h + b, and ``silu``:
            U silu(W h), at every token, starting from U = 0 and b = 0.
        rank: rows r of W, and of R, which are orthonormal.
        layers: decoder layers whose output is edited, counted from 0; None stands for all.
        prefix: of ``loreft``: number of first prompt tokens edited; at most half of the prompt.
        suffix: number of last prompt tokens edited; at most half of the prompt.
        share: whether first and last tokens share one edit per layer.
        init_seed: seed of the initial values, drawn per layer on the CPU.

    Raises:
        EditError: a number is out of range, or nothing would be edited.
    """

    form: Literal["loreft", "linear", "silu"] = "loreft"
    rank: int = 8
    layers: list[int] | None = None
    prefix: int = 7
    suffix: int = 7
    share: bool = True
    init_seed: int = 0
    target_modules: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(LOREFT)
        if self.rank < 1:
            raise EditError(f"rank must be 1 or more, got {self.rank}")
        if min(self.prefix, self.suffix) < 0 or not (self.prefix or self.suffix):
            raise EditError(f"prefix {self.prefix} and suffix {self.suffix} must be 0 or more, and not both 0")
        layers = self.layers
        if layers is not None and (not layers or min(layers) < 0 or len(set(layers)) < len(layers)):
            raise EditError(f"layers must name different layers, counted from 0, got {self.layers}")

    @property
    def positions(self) -> str:
        """Where the edit acts: everywhere, or on the prompt, whose position the caller must then give."""
        return "prompt" if self.form == "loreft" else "all"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that define the adapter, as written to ``adapter_config.json``."""
        derived = {entry.name for entry in fields(self) if not entry.init}
        return {key: value for key, value in super().to_dict().items() if key not in derived}
