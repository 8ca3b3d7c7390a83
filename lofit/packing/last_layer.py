"""Compute the last decoder layer only where its output is read.

Nothing after the last layer mixes positions. So only the scored columns of a row need its queries, attention output and
feed-forward network; the other columns only need keys and values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lofit.errors import EditError
from lofit.interventions import find_site
from lofit.interventions.spans import needs_spans
from lofit.packing.patch import patched_forward


class LastLayerTrim:
    """The modules of a model's last layer whose output matters in the scored columns only."""

    def __init__(self, model: nn.Module) -> None:
        """Find the modules; there are none if the structure of the layer is unknown.

        Args:
            model: a causal language model, with its adapters.
        """
        self.modules: list[nn.Module] = []
        if needs_spans(model):
            return  # an edit at some of the positions must see all of them
        base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
        with contextlib.suppress(EditError):
            heads, ffn = find_site(base, "head"), find_site(base, "ffn")
            layer = base.get_submodule(f"{heads.layers}.{heads.n_layers - 1}")
            attention, out = heads.suffix.rpartition(".")[::2]
            queries = getattr(layer.get_submodule(attention), "q_proj", None)
            if isinstance(queries, nn.Module) and queries.out_features == heads.groups * heads.width:
                self.modules.append(queries)
            self.modules.append(layer.get_submodule(attention).get_submodule(out))
            network = ffn.suffix.rpartition(".")[0]
            if network:
                self.modules.append(layer.get_submodule(network))

    @contextlib.contextmanager
    def limited_to(self, width: int) -> Iterator[None]:
        """Context in which these modules compute the last ``width`` columns of a batch, and return zeros elsewhere."""
        with contextlib.ExitStack() as stack:
            for module in self.modules:
                stack.enter_context(patched_forward(module, _on_last_columns(module.forward, width)))
            yield


def _on_last_columns(forward: Callable[..., Any], width: int) -> Callable[..., Any]:
    def limited(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        left = x.shape[1] - width
        if x.ndim != 3 or left <= 0:
            return forward(x, *args, **kwargs)
        y = forward(x[:, left:].contiguous(), *args, **kwargs)
        if not isinstance(y, torch.Tensor) or y.shape[:2] != (len(x), width):
            return forward(x, *args, **kwargs)
        return functional.pad(y, (0, 0, left, 0))

    return limited
