"""Wrapper of a module that scales and offsets heads of its input, or its output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn
from transformers.pytorch_utils import Conv1D

from lofit.errors import EditError
from lofit.interventions.spans import current_spans
from lofit.interventions.tuner.config import LofitConfig
from lofit.interventions.tuner.sites import Site


class _Float32Vectors(nn.ParameterDict):
    """Vectors by adapter name that stay float32 when the model around them is cast.

    bfloat16 cannot tell ``1 + a`` from 1 for ``|a|`` below about 2e-3, the size of the initial values.
    """

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> _Float32Vectors:
        def move(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)


class EditLayer(nn.Module, BaseTunerLayer):
    """Applies the edit ``z' = (1 + a) * z + v`` to the input or the output of a module.

    An adapter edits one side: selected heads of the input, viewed as [query heads, head dimension], or the whole
    output. Vectors are stored for the selected groups only, float32 [selected groups, width], in ascending order of the
    heads. The edit is computed in float32 (float64 for a float64 tensor) and cast back to the dtype of the tensor;
    heads that are not selected are unchanged. Several active adapters act as if merged one after the other: since
    merging multiplies the weight, on the input side the *last* one acts first, on the output side the first.

    Args:
        base_layer: a ``Linear`` or ``Conv1D``; for edits of the output, any module that returns one tensor.
    """

    adapter_layer_names = ("lofit_scale", "lofit_offset")
    other_param_names = ("lofit_groups", "lofit_sites", "lofit_answer_only")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        if isinstance(base_layer, nn.Linear):
            self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        elif isinstance(base_layer, Conv1D):
            self.in_features, self.out_features = base_layer.weight.shape
        self.lofit_scale = _Float32Vectors()
        self.lofit_offset = _Float32Vectors()
        self.lofit_groups = BufferDict(persistent=False)
        self.lofit_sites: dict[str, Site] = {}
        self.lofit_answer_only: dict[str, bool] = {}  # only adapters that do not act at all positions
        self.offset_factor = 1.0  # of `offsets_times`
        self._disable_adapters = False
        self._active_adapter = []
        self.merged_adapters = []
        # What a merge overwrote, by adapter: the scaled part of W, and the bias; None if there was none.
        self._before_merge: dict[str, tuple[torch.Tensor | None, torch.Tensor | None]] = {}

    def _base(self) -> Any:
        return self.get_base_layer()

    @property
    def mergeable(self) -> bool:
        """Whether the base is a linear map with floating-point weights, and all adapters act at all positions."""
        base = self._base()
        if self.lofit_answer_only:
            return False
        return isinstance(base, nn.Linear | Conv1D) and base.weight.is_floating_point()

    def new_bias_size(self, adapter_names: Sequence[str]) -> int:
        """Return the size of the bias that merging these adapters would add to the base layer; 0 if they add none."""
        needed = self._base().bias is None and any(name in self.lofit_offset for name in adapter_names)
        return self.out_features if needed else 0

    def update_layer(
        self, adapter_name: str, config: LofitConfig, site: Site, groups: Sequence[int], initial: torch.Tensor
    ) -> None:
        """Add the vectors of an adapter.

        Args:
            adapter_name: name of the adapter.
            config: configuration of the adapter, which says which vectors exist.
            site: what is edited.
            groups: selected query heads of this layer, ascending; [0] where the whole output is edited.
            initial: float32 [2, selected groups, width], initial scaling factors and offsets.
        """
        if site.side == "input" and not isinstance(self._base(), nn.Linear | Conv1D):
            raise EditError(f"heads can be edited at a Linear or Conv1D, not at a {type(self._base()).__name__}")
        device = self._base().weight.device
        # Inside PEFT's low-memory loading the new parameters are on the meta device until the file is read.
        self.lofit_sites[adapter_name] = site
        if config.positions == "answer":
            self.lofit_answer_only[adapter_name] = True
        self.lofit_groups[adapter_name] = torch.tensor(groups, dtype=torch.int64, device=device)
        if config.scale:
            self.lofit_scale[adapter_name] = nn.Parameter(initial[0].to(device))
        if config.offset:
            self.lofit_offset[adapter_name] = nn.Parameter(initial[1].to(device))
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _edit(self, x: torch.Tensor, adapter_name: str) -> torch.Tensor:
        """Apply one adapter to its tensor ``x`` [..., groups * width]."""
        site, groups = self.lofit_sites[adapter_name], self.lofit_groups[adapter_name]
        z = x.unflatten(-1, (site.groups, site.width))
        whole = len(groups) == site.groups
        edited = z if whole else z.index_select(-2, groups)
        if adapter_name in self.lofit_scale:
            edited = edited * (1 + self.lofit_scale[adapter_name])
        if adapter_name in self.lofit_offset:
            offset = self._offset(adapter_name)
            edited = edited + (offset if self.offset_factor == 1 else self.offset_factor * offset)
        edited = edited.to(x.dtype)
        edited = (edited if whole else z.index_copy(-2, groups, edited)).flatten(-2)
        if adapter_name in self.lofit_answer_only:
            return torch.where(current_spans(x).answer[..., None], edited, x)
        return edited

    def _offset(self, adapter_name: str) -> torch.Tensor:
        """Return the offsets in units of the edited tensor (divided by the gain): float32 [selected groups, width]."""
        gain = self.lofit_sites[adapter_name].gain
        offset: torch.Tensor = self.lofit_offset[adapter_name]
        return offset if gain == 1 else offset / gain

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the output of the base layer with its input and output edited, in the dtype of that output."""
        if self.disable_adapters:
            self.unmerge()
        if self.disable_adapters or self.merged:
            return self.base_layer(x, *args, **kwargs)
        active = [name for name in self.active_adapters if name in self.lofit_groups]
        for name in reversed(active):
            if self.lofit_sites[name].side == "input":
                x = self._edit(x, name)
        y = self.base_layer(x, *args, **kwargs)
        for name in active:
            if self.lofit_sites[name].side == "output":
                y = self._edit(y, name)
        return y

    def _scaled_part(self, adapter_name: str) -> torch.Tensor:
        """Return a view of the base weight whose columns are the features of the edited side."""
        base = self._base()
        weight: torch.Tensor = base.weight.data.T if isinstance(base, Conv1D) else base.weight.data
        return weight if self.lofit_sites[adapter_name].side == "input" else weight.T

    def _columns(self, adapter_name: str) -> torch.Tensor:
        """Return the features of the adapter's groups, int64 [selected groups * width]."""
        groups, width = self.lofit_groups[adapter_name], self.lofit_sites[adapter_name].width
        within = torch.arange(width, device=groups.device)
        return (groups[:, None] * width + within).flatten()

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold adapters into the base layer.

        On the input side ``b <- b + W v`` with the old W, then ``W <- W diag(1 + a)``; on the output side ``W <-
        diag(1 + a) W`` and ``b <- (1 + a) b + v``. This is computed in float32 and cast at the end. An offset adds a
        frozen bias to a base layer without bias. What is overwritten is kept, so that ``unmerge`` restores exactly the
        same weights.

        Args:
            safe_merge: refuse a result that is not finite, and leave the layer unchanged.
            adapter_names: adapters to merge, in this order; None for the active ones.

        Raises:
            EditError: ``safe_merge`` is on and the merged weight or bias would hold NaN or infinity.
        """
        for adapter_name in check_adapters_to_merge(self, adapter_names):
            if adapter_name in self.lofit_groups:
                self._merge_one(adapter_name, safe_merge)

    @torch.no_grad()
    def _merge_one(self, adapter_name: str, safe_merge: bool) -> None:
        base, weight, columns = self._base(), self._scaled_part(adapter_name), self._columns(adapter_name)
        wide = torch.promote_types(weight.dtype, torch.float32)
        scale = 1 + self.lofit_scale[adapter_name].flatten().to(wide) if adapter_name in self.lofit_scale else None
        before = weight[:, columns] if scale is not None else None
        merged = None if scale is None or before is None else (before.to(wide) * scale).to(weight.dtype)
        bias = self._merged_bias(adapter_name, scale, weight, columns, wide)
        if safe_merge and not all(part is None or part.isfinite().all() for part in (merged, bias)):
            # The message begins with PEFT's own words.
            raise EditError(
                f"NaNs detected in the merged weights. The adapter {adapter_name} seems to be broken: a value is NaN, "
                "infinite, or too large for the dtype of the model; nothing was merged"
            )
        self._before_merge[adapter_name] = (before, None if base.bias is None else base.bias.detach().clone())
        if merged is not None:
            weight[:, columns] = merged
        if bias is not None:
            if base.bias is None:
                base.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)
            else:
                base.bias.copy_(bias)
        self.merged_adapters.append(adapter_name)

    def _merged_bias(
        self, adapter_name: str, scale: torch.Tensor | None, weight: torch.Tensor, columns: torch.Tensor, wide: Any
    ) -> torch.Tensor | None:
        """Return the new bias [out_features], or None if it does not change."""
        base = self._base()
        on_output = self.lofit_sites[adapter_name].side == "output"
        bias = None if base.bias is None else base.bias.to(wide)
        if on_output and bias is not None and scale is not None:
            bias = bias * scale
        elif adapter_name not in self.lofit_offset:
            return None
        if adapter_name in self.lofit_offset:
            offset = self._offset(adapter_name).flatten().to(wide)
            shift = offset if on_output else weight[:, columns].to(wide) @ offset
            bias = shift if bias is None else bias + shift
        return None if bias is None else bias.to(weight.dtype)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Undo all merges, the last one first, and restore the exact weights; without a merge, do nothing."""
        while self.merged_adapters:
            adapter_name = self.merged_adapters.pop()
            before, bias = self._before_merge.pop(adapter_name)
            base = self._base()
            if before is not None:
                weight = self._scaled_part(adapter_name)
                weight[:, self._columns(adapter_name)] = before.to(weight)
            if bias is None:
                base.bias = None
            else:
                base.bias.copy_(bias)
