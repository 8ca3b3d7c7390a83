"""How much the loss rises when single heads of an intact model are damaged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from lofit.interventions import find_site
from lofit.models.damage import Damage, damaged
from lofit.models.encoding import Row
from lofit.packing.forward import answer_logits
from lofit.packing.rows import PAD, unpacked
from lofit.stats import Sample
from lofit.training.cached_prefix import GB
from lofit.training.forward import Forward

BATCH = 16


@torch.no_grad()
def output_norms(model: Any, rows: Sequence[Row]) -> torch.Tensor:
    """Return the root mean square over tokens of the norm of every head's output: float32 [layers, heads]."""
    site = find_site(model)
    squares = torch.zeros(site.n_layers, site.groups, dtype=torch.float64)
    tokens = 0
    for start in range(0, len(rows), BATCH):
        batch = unpacked([text for row in rows[start : start + BATCH] for text in row], PAD, model.device)
        read = batch.attention_mask.bool()
        tokens += int(read.sum())

        def add(layer: int, inputs: Any, read: torch.Tensor = read) -> None:
            squares[layer] += (
                inputs[0][read.to(inputs[0].device)]
                .unflatten(-1, (site.groups, site.width))
                .double()
                .square()
                .sum((0, 2))
                .cpu()
            )

        handles = [
            model.get_submodule(site.module_name(layer)).register_forward_pre_hook(
                lambda module, inputs, layer=layer: add(layer, inputs)
            )
            for layer in range(site.n_layers)
        ]
        try:
            answer_logits(model, batch)
        finally:
            for handle in handles:
                handle.remove()
    return (squares / tokens).sqrt().float()


@torch.no_grad()
def single_effects(model: Any, rows: Sequence[Row], damage: Damage) -> pd.DataFrame:
    """Damage every head alone, and measure how much the loss of the rows' answers rises.

    Layers below the damaged head are computed once for all heads of its layer.

    Args:
        model: the intact model, without adapters.
        rows: rows of one text each.
        damage: the damage of every head.

    Returns:
        ``layer``, ``head``, ``effect`` (rise of -log p in nats per answer token) and ``error`` (its standard error over
        rows).
    """
    site, counts = find_site(model), np.array([row[0].n_answer for row in rows], "float64")
    forward = Forward(model, rows, PAD)

    def log_probs() -> np.ndarray:
        parts = [forward.log_probs(rows[start : start + BATCH])[:, 0] for start in range(0, len(rows), BATCH)]
        return torch.cat(parts).double().cpu().numpy()

    intact, records = log_probs(), []
    for layer in range(site.n_layers):
        weight = model.get_submodule(site.module_name(layer)).weight
        forward.store = None
        weight.requires_grad_(True)  # so that what enters this layer is kept
        try:
            forward.keep_prefix(rows, BATCH, 2 * GB, 20 * GB)
        finally:
            weight.requires_grad_(False)
        for head in range(site.groups):
            with damaged(model, damage.at([(layer, head)])):
                rises = Sample((intact - log_probs())[None], counts)
            records.append((layer, head, rises.mean, math.sqrt(rises.variance)))
    return pd.DataFrame(records, columns=["layer", "head", "effect", "error"])
