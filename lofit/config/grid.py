"""Hyperparameter search: expand a method's configuration to the settings that are tried."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lofit.spec.base import HeadsConfig, MethodConfig, SearchConfig

UNSEARCHABLE = ("beta", "max_length")
"""Hyperparameters that cannot be searched: they change what the validation loss measures."""

MOST_BEYOND = 6
"""Learning rates that are tried at most beyond an end of a grid; recipes are for other models and numbers of steps."""

MAX_SIZE = 10_000
"""Largest number of settings that the grid of a search may have."""


def size(search: SearchConfig) -> int:
    """Return the number of settings in the whole grid."""
    return math.prod(len(values) for values in search.axes.values())


def lr_search(rate: float, factors: Sequence[float]) -> SearchConfig:
    """Return the search among multiples of a learning rate, rounded to six digits."""
    return SearchConfig(params={"lr": [_rounded(rate * factor) for factor in factors]})


def beyond(rates: Sequence[float], last: bool) -> list[float]:
    """Return the rates that may be tried beyond the first or the last of a grid, nearest first, by its ratio there."""
    end, inner = rates[:-3:-1] if last else rates[:2]
    return [_rounded(end * (end / inner) ** step) for step in range(1, MOST_BEYOND + 1)]


def _rounded(rate: float) -> float:
    return float(f"{rate:.6g}")


def settings(entry: MethodConfig, search: SearchConfig, n: int | None) -> list[tuple[dict[str, Any], MethodConfig]]:
    """Return the settings that are tried: for each, its point in the grid and a method configuration without a search.

    Args:
        entry: configuration of the method.
        search: its search.
        n: maximum number of settings. If the grid has more, ``n`` of them are drawn without replacement with a fixed
            seed and kept in grid order. None: the whole grid.
    """
    axes = search.axes
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    if n is not None and n < len(points):
        drawn = np.random.default_rng(0).choice(len(points), size=n, replace=False)
        points = [points[i] for i in sorted(drawn)]
    return [(point, _applied(entry, point)) for point in points]


def _applied(entry: MethodConfig, point: dict[str, Any]) -> MethodConfig:
    """Return the configuration with the values of one grid point."""
    values = dict(point)
    changes: dict[str, Any] = {"search": None}
    heads = {"k": [values.pop("k")]} if "k" in values else {}
    own = {name: values.pop(name) for name in list(values) if name.startswith("localizer.")}
    if heads or own:
        given = entry.heads or HeadsConfig()
        ranking = given.params | {name.removeprefix("localizer."): value for name, value in own.items()}
        changes["heads"] = given.model_copy(update={**heads, "params": ranking})
    return entry.model_copy(update=changes | {"params": entry.params | values})
