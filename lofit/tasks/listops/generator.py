"""Random nested list expressions and their values, after ListOps (Nangia & Bowman 2018, arXiv:1804.06028)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

OPERATORS: dict[str, Callable[[list[int]], int]] = {
    "MIN": min,
    "MAX": max,
    # The authors' make_data.py uses int(median): for an even number of arguments, the mean of the middle two, truncated
    # to an integer. Digits are not negative, so this is the floor.
    "MED": lambda values: (sorted(values)[(len(values) - 1) // 2] + sorted(values)[len(values) // 2]) // 2,
    "SM": lambda values: sum(values) % 10,
}


DRAWS = 10_000
"""Number of draws after which expressions that are short enough count as too rare."""


@dataclass(frozen=True)
class Node:
    """An operator applied to digits and further nodes."""

    operator: str
    arguments: tuple[Node | int, ...]


def text(node: Node | int) -> str:
    """Return the expression in its standard notation, for example ``[MAX 2 9 [MIN 4 7 ] 0 ]``."""
    if isinstance(node, int):
        return str(node)
    return f"[{node.operator} {' '.join(text(argument) for argument in node.arguments)} ]"


def value(node: Node | int) -> int:
    """Evaluate the expression to a digit."""
    if isinstance(node, int):
        return node
    return OPERATORS[node.operator]([value(argument) for argument in node.arguments])


def _draw_node(rng: random.Random, depth: int, max_args: int) -> Node:
    """Draw an expression of exactly ``depth`` nested operators with 2 to ``max_args`` arguments each.

    One argument carries the full depth; each other is a nested expression with the authors' probability 0.25.
    """
    count = rng.randint(2, max_args)
    deep = rng.randrange(count)
    arguments: list[Node | int] = []
    for position in range(count):
        if depth > 1 and position == deep:
            arguments.append(_draw_node(rng, depth - 1, max_args))
        elif depth > 1 and rng.random() < 0.25:
            arguments.append(_draw_node(rng, rng.randint(1, depth - 1), max_args))
        else:
            arguments.append(rng.randrange(10))
    return Node(rng.choice(list(OPERATORS)), tuple(arguments))


def draw_expression(
    rng: random.Random, *, min_depth: int, max_depth: int, max_args: int, max_length: int
) -> Node | None:
    """Draw an expression with a depth uniform on min_depth..max_depth; redraw it if it exceeds ``max_length`` tokens.

    Tokens are the space-separated parts of the notation: digits, operators with their bracket, closing brackets.
    Returns None if ``DRAWS`` of that depth were all longer.
    """
    depth = rng.randint(min_depth, max_depth)
    for _ in range(DRAWS):
        node = _draw_node(rng, depth, max_args)
        if len(text(node).split()) <= max_length:
            return node
    return None
