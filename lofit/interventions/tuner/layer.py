"""A linear map whose input heads are scaled and offset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn
from transformers.pytorch_utils import Conv1D

from lofit.errors import EditError
from lofit.interventions.tuner.config import LofitConfig


class _Float32Vectors(nn.ParameterDict):
    """Vectors by adapter name that stay float32 when the model around them is cast.

    bfloat16 cannot tell ``1 + a`` from 1 for ``|a|`` below about 2e-3, the size of the initial values.
    """

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> _Float32Vectors:
        def move(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)


class HeadEditLayer(nn.Module, BaseTunerLayer):
    """``y = W z' + b`` with ``z' = (1 + a) * z + v`` on the selected heads of the input, for ``Linear`` and ``Conv1D``.

    Vectors are stored compactly, float32 [selected heads, head dimension], rows in ascending order of the head. The
    edit is computed in float32 (float64 for a float64 input) and cast back to the dtype of the input; heads that are
    not selected pass through untouched. Several active adapters act as if merged one after the other: since merging
    multiplies the weight from the input side, the *last* one acts first on the input.

    Args:
        base_layer: the projection, with input features heads x ``head_dim``.
        head_dim: width of one head.
    """

    adapter_layer_names = ("lofit_scale", "lofit_offset")
    other_param_names = ("lofit_heads",)

    def __init__(self, base_layer: nn.Module, head_dim: int) -> None:
        super().__init__()
        if not isinstance(base_layer, nn.Linear | Conv1D):
            raise EditError(f"heads can be edited at a Linear or Conv1D, not at a {type(base_layer).__name__}")
        self.base_layer = base_layer
        self.in_features, self.out_features = (
            (base_layer.in_features, base_layer.out_features)
            if isinstance(base_layer, nn.Linear)
            else tuple(base_layer.weight.shape)
        )
        self.head_dim = head_dim
        self.n_heads = self.in_features // head_dim
        self.lofit_scale = _Float32Vectors()
        self.lofit_offset = _Float32Vectors()
        self.lofit_heads = BufferDict(persistent=False)
        self._disable_adapters = False
        self._active_adapter = []
        self.merged_adapters = []
        # What a merge overwrote, by adapter: the columns of W that its heads read, and the bias (None if absent).
        self._before_merge: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def _base(self) -> Any:
        return self.get_base_layer()

    def update_layer(self, adapter_name: str, config: LofitConfig, heads: Sequence[int], initial: torch.Tensor) -> None:
        """Add the vectors of an adapter.

        Args:
            adapter_name: name of the adapter.
            config: its configuration, which says which vectors exist.
            heads: selected query heads of this layer, ascending.
            initial: float32 [2, selected heads, head dimension], initial scaling factors and offsets.
        """
        device = self._base().weight.device
        # Inside PEFT's low-memory loading the new parameters are on the meta device until the file is read.
        self.lofit_heads[adapter_name] = torch.tensor(heads, dtype=torch.int64, device=device)
        if config.scale:
            self.lofit_scale[adapter_name] = nn.Parameter(initial[0].to(device))
        if config.offset:
            self.lofit_offset[adapter_name] = nn.Parameter(initial[1].to(device))
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _edit(self, x: torch.Tensor, adapter_name: str) -> torch.Tensor:
        """Apply one adapter to ``x`` [..., in_features]."""
        heads = self.lofit_heads[adapter_name]
        z = x.unflatten(-1, (self.n_heads, self.head_dim))
        every_head = len(heads) == self.n_heads
        edited = z if every_head else z.index_select(-2, heads)
        if adapter_name in self.lofit_scale:
            edited = edited * (1 + self.lofit_scale[adapter_name])
        if adapter_name in self.lofit_offset:
            edited = edited + self.lofit_offset[adapter_name]
        edited = edited.to(x.dtype)
        return (edited if every_head else z.index_copy(-2, heads, edited)).flatten(-2)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the projection of the edited input, in the dtype the base layer gives."""
        if self.disable_adapters:
            self.unmerge()
        elif not self.merged:
            for adapter_name in reversed(self.active_adapters):
                if adapter_name in self.lofit_heads:
                    x = self._edit(x, adapter_name)
        return self.base_layer(x, *args, **kwargs)

    def _columns(self, adapter_name: str) -> torch.Tensor:
        """Return the input features of the adapter's heads, int64 [selected heads * head dimension]."""
        heads = self.lofit_heads[adapter_name]
        within = torch.arange(self.head_dim, device=heads.device)
        return (heads[:, None] * self.head_dim + within).flatten()

    def _weight(self) -> torch.Tensor:
        """Return a view of the base weight as [out_features, in_features]."""
        base = self._base()
        return base.weight.data.T if isinstance(base, Conv1D) else base.weight.data

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold adapters into the base layer: ``b <- b + W v`` with the old W, then ``W <- W diag(1 + a)``.

        Computed in float32 and cast last. An offset gives a base layer without bias a new, frozen one. What is
        overwritten is kept, so that ``unmerge`` restores the very same weights.

        Args:
            safe_merge: refuse a result that is not finite, leaving the layer as it was.
            adapter_names: adapters to merge, in this order; None for the active ones.

        Raises:
            EditError: ``safe_merge`` is on and the merged weight or bias would hold NaN or infinity.
        """
        for adapter_name in check_adapters_to_merge(self, adapter_names):
            if adapter_name in self.lofit_heads:
                self._merge_one(adapter_name, safe_merge)

    @torch.no_grad()
    def _merge_one(self, adapter_name: str, safe_merge: bool) -> None:
        base, weight, columns = self._base(), self._weight(), self._columns(adapter_name)
        before = weight[:, columns]
        wide = torch.promote_types(weight.dtype, torch.float32)
        merged, bias = before, None
        if adapter_name in self.lofit_scale:
            merged = (before.to(wide) * (1 + self.lofit_scale[adapter_name].flatten())).to(weight.dtype)
        if adapter_name in self.lofit_offset:
            shift = before.to(wide) @ self.lofit_offset[adapter_name].flatten().to(wide)
            bias = (shift if base.bias is None else base.bias.to(wide) + shift).to(weight.dtype)
        if safe_merge and not (merged.isfinite().all() and (bias is None or bias.isfinite().all())):
            raise EditError(
                f"merging adapter {adapter_name!r} gives weights that are NaN or infinite; nothing was merged, "
                "and the adapter is broken or too large for the dtype of the model"
            )
        self._before_merge[adapter_name] = (before, None if base.bias is None else base.bias.detach().clone())
        weight[:, columns] = merged
        if bias is not None:
            if base.bias is None:
                base.bias = nn.Parameter(bias, requires_grad=False)
            else:
                base.bias.copy_(bias)
        self.merged_adapters.append(adapter_name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Undo every merge, the last one first, restoring the exact weights; without a merge, do nothing."""
        while self.merged_adapters:
            adapter_name = self.merged_adapters.pop()
            columns, bias = self._before_merge.pop(adapter_name)
            base, weight = self._base(), self._weight()
            weight[:, self._columns(adapter_name)] = columns.to(weight)
            if bias is None:
                base.bias = None
            else:
                base.bias.copy_(bias)
