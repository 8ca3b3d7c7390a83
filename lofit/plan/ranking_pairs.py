"""Which rankings of a configuration can be compared: those that differ in one thing alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from pydantic import ValidationError

from lofit.plan.nodes import LocalizeNode
from lofit.plan.table import RunTable


def setting(table: RunTable, node: LocalizeNode) -> str:
    """The localizer, with what its rankings set otherwise than is usual for the model and task."""
    try:
        usual = table.expansion.localizer_params(node.localizer, node.model, node.data.task, {}).model_dump(mode="json")
    except ValidationError:  # a hyperparameter has no usual value
        usual = {}
    set_here = [
        f"{name}={value}" for name, value in node.params.model_dump(mode="json").items() if usual.get(name) != value
    ]
    return f"{node.localizer} ({', '.join(set_here)})" if set_here else node.localizer


def configured_rankings(table: RunTable) -> list[LocalizeNode]:
    """Rankings on the configured splits: not those on fewer examples, nor on damaged models."""
    configured = {fit.data.id for fit in [*table.comparison.values(), *table.transfers.values()]}
    return [node for node in table.head_rankings.values() if node.data.id in configured or not configured]


def comparable_pairs(table: RunTable) -> Iterator[tuple[str, LocalizeNode, LocalizeNode]]:
    """Pairs of rankings that differ in one thing alone, with what that is.

    ``tasks``, ``folds``, ``subsets`` (seed of the training subset), ``seeds`` (subset and training), ``training seeds``
    or ``localizers`` (or settings of one). Only the configured rankings.
    """

    def aspects(node: LocalizeNode) -> dict[str, Any]:
        return {
            "model": node.model,
            "tasks": node.data.task,
            "folds": node.data.fold,
            "seeds": (node.data.seed, node.training_seed),
            "localizers": setting(table, node),
        }

    known = [(node, aspects(node)) for node in configured_rankings(table)]
    for kind in ("tasks", "folds", "seeds", "localizers"):
        groups = defaultdict(list)
        for node, found in known:
            groups[tuple(value for name, value in found.items() if name != kind)].append(node)
        for group in groups.values():
            for one, other in combinations(group, 2):
                yield _seeds(one, other) if kind == "seeds" else kind, one, other


def _seeds(one: LocalizeNode, other: LocalizeNode) -> str:
    """Which seeds two rankings on splits of one task differ in."""
    if one.data.seed == other.data.seed:
        return "training seeds"
    return "seeds" if one.own_seed != other.own_seed else "subsets"


def compares_tasks(table: RunTable) -> bool:
    """Whether there are rankings that differ in their task alone."""
    return any(kind == "tasks" for kind, _, _ in comparable_pairs(table))
