"""Search over hyperparameters: a method's configuration expanded to the settings that are tried."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from lofit.spec.base import HeadsConfig, MethodConfig, SearchConfig

UNSEARCHABLE = ("beta", "max_length")
"""Hyperparameters that change what the validation loss measures, so that settings cannot be compared by it."""

MAX_SIZE = 10_000
"""Settings that the whole grid of a search may have."""


def size(search: SearchConfig) -> int:
    """Number of settings of the whole grid."""
    return math.prod(len(values) for values in search.axes.values())


def settings(entry: MethodConfig, search: SearchConfig, n: int | None) -> list[tuple[dict[str, Any], MethodConfig]]:
    """The settings that are tried: each with its point of the grid, and as a configuration without a search.

    Args:
        entry: configuration of the method.
        search: its search.
        n: how many, drawn without replacement by a generator of fixed seed where the grid has more, in the order of
            the grid; None: all.
    """
    axes = search.axes
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    if n is not None and n < len(points):
        drawn = np.random.default_rng(0).choice(len(points), size=n, replace=False)
        points = [points[i] for i in sorted(drawn)]
    return [(point, _applied(entry, point)) for point in points]


def _applied(entry: MethodConfig, point: dict[str, Any]) -> MethodConfig:
    """The configuration with the values of one point."""
    values = dict(point)
    changes: dict[str, Any] = {"search": None}
    heads = {"k": [values.pop("k")]} if "k" in values else {}
    own = {name: values.pop(name) for name in list(values) if name.startswith("localizer.")}
    if heads or own:
        given = entry.heads or HeadsConfig()
        ranking = given.params | {name.removeprefix("localizer."): value for name, value in own.items()}
        changes["heads"] = given.model_copy(update={**heads, "params": ranking})
    return entry.model_copy(update=changes | {"params": entry.params | values})
