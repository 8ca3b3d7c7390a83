"""Find prefixes that many texts share, so that their keys and values are computed once."""

from __future__ import annotations

from collections.abc import Sequence

from lofit.models.encoding import Example

# A shared prefix of fewer tokens, or of fewer rows, is computed again, since caching it would cost more.
LEAST_PREFIX, LEAST_ROWS = 16, 8


def shared_prefix(texts: Sequence[Example]) -> int:
    """Return the number of leading tokens that all texts share and that come before the last token of every prompt."""
    first, last = min(t.ids for t in texts), max(t.ids for t in texts)
    limit = min(text.answer_start - 1 for text in texts)
    return next((i for i in range(limit) if first[i] != last[i]), limit)


def by_prefix(rows: Sequence[Sequence[Example]]) -> list[tuple[int, list[int]]]:
    """Divide rows into groups that share a long prefix.

    Args:
        rows: the texts of each row.

    Returns:
        For each group, the number of tokens worth caching (0 if the rows share too little) and the indices of its rows.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i][0].ids)
    groups: list[tuple[int, list[int]]] = []
    for i in order:
        own = shared_prefix(rows[i])
        if groups:
            prefix, members = groups[-1]
            common = min(prefix, shared_prefix([*rows[members[-1]], *rows[i]]))
            # Joining must not cost the group more than half of what it shares.
            if common >= max(LEAST_PREFIX, prefix // 2) or (len(members) == 1 and common >= LEAST_PREFIX):
                groups[-1] = (common, [*members, i])
                continue
        groups.append((own, [i]))
    alone = [i for _, members in groups if len(members) < LEAST_ROWS for i in members]
    shared = [(prefix, members) for prefix, members in groups if len(members) >= LEAST_ROWS]
    return shared + ([(0, alone)] if alone else [])
