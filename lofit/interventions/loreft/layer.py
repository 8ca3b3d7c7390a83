"""A decoder layer whose output is edited in a low-rank subspace (arXiv 2404.03592, section 3.2; arXiv 2603.00425)."""

from __future__ import annotations

import math
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn import functional

from lofit.interventions.loreft.config import LoreftConfig
from lofit.interventions.spans import current_spans


class LoreftEdit(nn.Module):
    """The edit h' = h + R^T (W h + b - R h) in float32, with R [rank, width] of orthonormal rows.

    R is the Gram-Schmidt basis of the trained matrix ``r`` [width, rank]: its QR decomposition with a positive
    diagonal, without which single rows of R would change sign as ``r`` moves.

    Args:
        width: hidden size D.
        rank: rank r.
        generator: generator of the initial values: R is uniform over orthonormal frames, W and b are as in
            ``nn.Linear``.
    """

    def __init__(self, width: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.r = nn.Parameter(orthonormal(torch.randn(width, rank, generator=generator)).contiguous())
        bound = 1 / math.sqrt(width)
        self.w = nn.Parameter((torch.rand(rank, width, generator=generator) * 2 - 1) * bound)
        self.b = nn.Parameter((torch.rand(rank, generator=generator) * 2 - 1) * bound)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Edit ``h`` [n, width]; computed in float32 and cast back."""
        basis = orthonormal(self.r)
        wide = h.to(torch.promote_types(h.dtype, torch.float32))
        change = functional.linear(wide, self.w, self.b) - wide @ basis
        return (wide + change @ basis.T).to(h.dtype)


class PostBlockEdit(nn.Module):
    """The edit h' = h + U W h + b, or h + U silu(W h) (arXiv 2603.00425), in float32; at first, U and b are 0.

    Args:
        width: hidden size D.
        rank: rank r.
        generator: generator of the initial values of W, which are as in ``nn.Linear``.
        linear: whether there are b and no silu.
    """

    def __init__(self, width: int, rank: int, generator: torch.Generator, linear: bool) -> None:
        super().__init__()
        self.w = nn.Parameter((torch.rand(rank, width, generator=generator) * 2 - 1) / math.sqrt(width))
        self.u = nn.Parameter(torch.zeros(width, rank))
        self.b = nn.Parameter(torch.zeros(width)) if linear else None

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Edit ``h`` [..., width]; computed in float32 and cast back."""
        wide = h.to(torch.promote_types(h.dtype, torch.float32))
        low = functional.linear(wide, self.w)
        change = functional.linear(functional.silu(low) if self.b is None else low, self.u, self.b)
        return (wide + change).to(h.dtype)


def orthonormal(matrix: torch.Tensor) -> torch.Tensor:
    """Return the Gram-Schmidt basis, float32 [width, rank], of the columns of ``matrix`` [width, rank]."""
    q, r = torch.linalg.qr(matrix)
    return q * torch.where(r.diagonal() < 0, -1.0, 1.0)


class LoreftLayer(nn.Module, BaseTunerLayer):
    """Edits the output of a decoder layer at the first and last tokens of each prompt alone, or at every token.

    Attributes that are not found here, which the model may look up on its layers, come from the wrapped layer.
    """

    adapter_layer_names = ("loreft_edits",)
    other_param_names = ("loreft_configs",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.loreft_edits = nn.ModuleDict()
        self.loreft_configs: dict[str, LoreftConfig] = {}
        self._disable_adapters = False
        self._active_adapter = []
        self.merged_adapters = []

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)

    def update_layer(self, adapter_name: str, config: LoreftConfig, width: int, layer: int) -> None:
        """Add the edits of an adapter: one for the first and one for the last tokens, or one for both, or for all.

        Args:
            adapter_name: name of the adapter.
            config: configuration of the adapter.
            width: hidden size.
            layer: number of this decoder layer, which seeds the initial values.
        """
        generator = torch.Generator().manual_seed(config.init_seed * 65536 + layer)
        count = 1 if config.share or not (config.prefix and config.suffix) else 2
        with torch.device("cpu"):
            if config.form == "loreft":
                edits = nn.ModuleList(LoreftEdit(width, config.rank, generator) for _ in range(count))
            else:
                edits = nn.ModuleList([PostBlockEdit(width, config.rank, generator, config.form == "linear")])
        self.loreft_edits[adapter_name] = edits.to(next(self.base_layer.parameters()).device)
        self.loreft_configs[adapter_name] = config
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the decoder layer with its hidden states [batch, length, width] edited."""
        output = self.base_layer(*args, **kwargs)
        if self.disable_adapters:
            return output
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        for name in self.active_adapters:
            if name in self.loreft_edits:
                hidden = self._edit(hidden, name)
        return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

    def _edit(self, h: torch.Tensor, adapter_name: str) -> torch.Tensor:
        config, edits = self.loreft_configs[adapter_name], list(self.loreft_edits[adapter_name].children())
        if config.form != "loreft":
            edited: torch.Tensor = edits[0](h)
            return edited
        prompt = current_spans(h).prompt
        first, last = prompt_ends(prompt, config.prefix, config.suffix)
        masks = [first | last] if len(edits) == 1 else [first, last]
        for edit, mask in zip(edits, masks, strict=True):
            if mask.any():
                h = h.masked_scatter(mask[..., None], edit(h[mask]))
        return h


def prompt_ends(prompt: torch.Tensor, prefix: int, suffix: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask the first ``prefix`` and the last ``suffix`` tokens of each prompt, each at most half of the prompt.

    Args:
        prompt: bool [batch, length], the tokens of the prompt, which are contiguous.
        prefix: number of first tokens.
        suffix: number of last tokens.

    Returns:
        Two disjoint bool tensors [batch, length].
    """
    rank = prompt.long().cumsum(-1)  # 1 for the first token of the prompt
    total = rank[:, -1:]
    half = total // 2
    first = prompt & (rank <= half.clamp(max=prefix))
    last = prompt & (rank > total - half.clamp(max=suffix))
    return first, last
