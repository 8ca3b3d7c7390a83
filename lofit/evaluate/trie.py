"""Many texts in one row: a trie of their tokens, in which every token attends to what stands before it.

The answers to one question share its tokens, and all questions of a task share its preamble. In a row every distinct
prefix of its texts is one token, so shared parts are computed once; a block mask keeps the branches apart. A preamble
that all rows share is left out of them: its keys and values come from a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch

from lofit.fit.examples import Example

# A beginning shared by fewer tokens or rows than this is computed again: a cache of its own would cost more.
LEAST_PREFIX, LEAST_ROWS = 16, 8


class Role(IntEnum):
    """What a token is to its text; edits may act on some roles only, so tokens of different roles stay apart."""

    PROMPT = 0
    LAST_OF_PROMPT = 1
    ANSWER = 2


class Trie:
    """The input tokens of some texts behind a shared prefix, each distinct (prefix, role) once.

    Attributes:
        tokens, depths, roles: int64 [nodes]; a depth is the token's position in its text. Prompt tokens come first,
            then the scored ones: last tokens of prompts, and answers.
        ancestors: bool [nodes, nodes], what a token (row) may attend to behind the prefix; itself included.
        n_prompt: number of prompt tokens before the scored ones.
        paths: per text, the scored nodes, which predict its answer tokens in order.
    """

    def __init__(self, texts: Sequence[Example], prefix: int = 0) -> None:
        """Build the trie.

        Args:
            texts: share their first ``prefix`` tokens, all of which come before the last token of the prompt.
            prefix: number of tokens left out.
        """
        nodes: dict[tuple[int, int, int], int] = {}
        tokens: list[int] = []
        depths: list[int] = []
        roles: list[int] = []
        parents: list[int] = []
        paths: list[list[int]] = []
        for text in texts:
            parent, path = -1, []
            for depth in range(prefix, len(text.ids) - 1):  # the last token is a label only
                role = min(max(depth - text.answer_start + 2, Role.PROMPT), Role.ANSWER)
                key = (parent, text.ids[depth], role)
                if key not in nodes:
                    nodes[key] = len(tokens)
                    tokens.append(text.ids[depth])
                    depths.append(depth)
                    roles.append(role)
                    parents.append(parent)
                parent = nodes[key]
                if role != Role.PROMPT:
                    path.append(parent)
            paths.append(path)
        seen = np.zeros((len(tokens), len(tokens)), dtype=bool)
        for node, parent in enumerate(parents):  # a parent is always made before its children
            if parent >= 0:
                seen[node] = seen[parent]
            seen[node, node] = True
        order = np.argsort(np.minimum(roles, Role.LAST_OF_PROMPT), kind="stable")
        place = np.argsort(order)
        self.tokens, self.depths, self.roles = (torch.tensor(x)[order] for x in (tokens, depths, roles))
        self.ancestors = torch.from_numpy(seen[np.ix_(order, order)])
        self.n_prompt = int((self.roles == Role.PROMPT).sum())
        self.paths = [[int(place[node]) for node in path] for path in paths]

    @property
    def n_scored(self) -> int:
        """Number of tokens whose output is scored."""
        return len(self.tokens) - self.n_prompt


@dataclass(frozen=True)
class Rows:
    """Tries as the rows of a batch: prompts padded on the left, scored tokens on the right, so that these are aligned.

    Attributes:
        input_ids, position_ids: int64 [rows, length].
        attention_mask: float [rows, 1, length, prefix + length], 0 where attended and the dtype's minimum elsewhere.
        prompt, answer: bool [rows, length], as in :class:`lofit.interventions.spans.Spans`.
        width: columns of the scored tokens, at the end.
        row, column, label, text: int64 [answer tokens]: which output predicts which token of which text; columns count
            from the first scored one, texts through the whole batch.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor
    prompt: torch.Tensor
    answer: torch.Tensor
    width: int
    row: torch.Tensor
    column: torch.Tensor
    label: torch.Tensor
    text: torch.Tensor


def collate_rows(
    groups: Sequence[Sequence[Example]], prefix: int, pad_id: int, device: torch.device, dtype: torch.dtype
) -> Rows:
    """Lay out one trie per group.

    Args:
        groups: the texts of each row.
        prefix: number of first tokens, shared by all texts, whose keys and values are cached.
        pad_id: any token.
        device: where to.
        dtype: of the attention mask, that of the model.
    """
    tries = [Trie(texts, prefix) for texts in groups]
    left, width = max(trie.n_prompt for trie in tries), max(trie.n_scored for trie in tries)
    shape = (len(tries), left + width)
    ids, positions, roles = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    seen = torch.zeros((len(tries), 1, left + width, prefix + left + width), dtype=torch.bool)
    where: list[tuple[int, int, int, int]] = []
    texts = 0
    for row, (trie, group) in enumerate(zip(tries, groups, strict=True)):
        columns = slice(left - trie.n_prompt, left + trie.n_scored)
        ids[row, columns], positions[row, columns], roles[row, columns] = trie.tokens, trie.depths, trie.roles
        seen[row, 0, columns, :prefix] = True
        seen[row, 0, columns, prefix + columns.start : prefix + columns.stop] = trie.ancestors
        for path, text in zip(trie.paths, group, strict=True):
            answer = text.ids[text.answer_start :]
            where += [(row, node - trie.n_prompt, token, texts) for node, token in zip(path, answer, strict=True)]
            texts += 1
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    places = torch.tensor(where).to(device)
    return Rows(
        ids.to(device),
        positions.to(device),
        mask.to(device),
        prompt=((roles == Role.PROMPT) | (roles == Role.LAST_OF_PROMPT)).to(device),
        answer=(roles >= Role.LAST_OF_PROMPT).to(device),
        width=width,
        row=places[:, 0],
        column=places[:, 1],
        label=places[:, 2],
        text=places[:, 3],
    )


def shared_prefix(texts: Sequence[Example]) -> int:
    """Number of first tokens that all texts share and that come before the last token of every prompt."""
    first, last = min(t.ids for t in texts), max(t.ids for t in texts)
    limit = min(text.answer_start - 1 for text in texts)
    return next((i for i in range(limit) if first[i] != last[i]), limit)


def by_prefix(rows: Sequence[Sequence[Example]]) -> list[tuple[int, list[int]]]:
    """Divide rows into groups that share a long beginning.

    Args:
        rows: the texts of each row.

    Returns:
        Per group the number of tokens worth caching (0 if the rows share too little), and the rows' indices.
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
