"""Gradient checkpointing and compilation of a model's layers during training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from lofit.interventions.prompt import virtual_tokens
from lofit.interventions.spans import resumed
from lofit.packing.patch import patched_forward
from lofit.spec.hyperparameters import ComputeParams
from lofit.training.cached_prefix import decoder_layers, first_trained_layer


@contextlib.contextmanager
def with_compute_options(model: Any, compute: ComputeParams) -> Iterator[None]:
    """Context in which all trained layers but the last are compiled and checkpointed, as configured.

    The last layer is left unchanged: it computes scored positions only, where checkpointing would save next to nothing.
    With virtual tokens nothing is compiled: a compiled layer that is checkpointed must not have changed its cache.

    Args:
        model: the model with its adapters.
        compute: the configured options.
    """
    layers = decoder_layers(model)
    with contextlib.ExitStack() as stack:
        for layer in list(layers or ())[first_trained_layer(model) : -1]:
            if compute.compile and not virtual_tokens(model):
                stack.enter_context(patched_forward(layer, torch.compile(layer.forward, dynamic=True)))
            if compute.checkpointing:
                stack.enter_context(patched_forward(layer, _checkpointed(layer.forward)))
        yield


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def twice(*args: Any, **kwargs: Any) -> Any:
        spans = resumed()
        return checkpoint(
            forward, *args, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), spans), **kwargs
        )

    return twice
