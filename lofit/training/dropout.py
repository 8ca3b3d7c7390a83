"""Dropout of an adapter during training; that of the base model stays off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


class AdapterDropout:
    """Turns the dropout of an adapter on for a step of training, with masks that depend on seed and step alone.

    A fit that goes on from a save point thus draws the masks that it would have drawn. Tokens that several texts of a
    packed row share have one mask, and ``micro_batch`` changes the order in which masks are drawn.
    """

    def __init__(self, model: Any, seed: int, device: torch.device) -> None:
        """Find the dropout modules of a model's adapters.

        Args:
            model: a model, with its adapters.
            seed: seed of the run.
            device: device of the model.
        """
        layers: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
        base = {id(found) for layer in layers for found in layer.get_base_layer().modules()}
        self._modules: list[nn.Module] = []
        for layer in layers:
            inside = [found for found in layer.modules() if isinstance(found, nn.Dropout) and id(found) not in base]
            if active := [found for found in inside if found.p > 0]:
                self._modules += [layer, *active]  # DoRA asks the layer whether there is dropout
        self._seed = seed
        self._gpus = range(torch.cuda.device_count()) if device.type == "cuda" else ()

    @contextlib.contextmanager
    def on(self, step: int) -> Iterator[None]:
        """Context of the forward and backward passes of one step."""
        if not self._modules:
            yield
            return
        with torch.random.fork_rng(devices=self._gpus):
            torch.manual_seed((self._seed << 32) + step)
            for module in self._modules:
                module.training = True  # of the module itself, and not of the base layer inside
            try:
                yield
            finally:
                for module in self._modules:
                    module.training = False
