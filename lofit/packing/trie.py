"""Tries of texts, in which shared prefixes are stored once.

The answers to one question share its tokens, and so do the chosen and the rejected answer of a preference pair. In a
trie every distinct prefix of the texts is one token, so shared parts are computed once. Each token attends to the
tokens before it in its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch

from lofit.models.encoding import Example


class Role(IntEnum):
    """Role of a token in its text. Edits may act on some roles only, so tokens with different roles are not merged."""

    PROMPT = 0
    LAST_OF_PROMPT = 1
    ANSWER = 2


class Trie:
    """Trie of the input tokens of several texts after a shared prefix, with each distinct (beginning, role) once.

    Attributes:
        tokens, depths, roles: int64 [nodes]; a depth is the token's position in its text. Prompt tokens come first,
            then the scored ones: last tokens of prompts, and answers.
        ancestors: bool [nodes, nodes], which tokens after the prefix a token (row) may attend to, itself included.
        n_texts: number of texts.
        n_prompt: number of prompt tokens, which come before the scored ones.
        targets: int64 [answer tokens, 3]: which node predicts which token of which text, in the order of the texts.
    """

    def __init__(self, texts: Sequence[Example], prefix: int = 0) -> None:
        """Build the trie.

        Args:
            texts: texts that share their first ``prefix`` tokens, all of them before the last token of the prompt.
            prefix: number of leading tokens to leave out.
        """
        nodes: dict[tuple[int, int, int], int] = {}
        tokens: list[int] = []
        depths: list[int] = []
        roles: list[int] = []
        parents: list[int] = []
        targets: list[tuple[int, int, int]] = []
        for index, text in enumerate(texts):
            parent = -1
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
                    targets.append((parent, text.ids[depth + 1], index))
        seen = np.zeros((len(tokens), len(tokens)), dtype=bool)
        for node, parent in enumerate(parents):  # a parent is always made before its children
            if parent >= 0:
                seen[node] = seen[parent]
            seen[node, node] = True
        order = np.argsort(np.minimum(roles, Role.LAST_OF_PROMPT), kind="stable")
        place = np.argsort(order)
        self.tokens, self.depths, self.roles = (torch.tensor(x)[order] for x in (tokens, depths, roles))
        self.ancestors = torch.from_numpy(seen[np.ix_(order, order)])
        self.n_texts = len(texts)
        self.n_prompt = int((self.roles == Role.PROMPT).sum())
        self.targets = torch.tensor([(place[node], label, text) for node, label, text in targets])

    def __len__(self) -> int:
        """Number of nodes."""
        return len(self.tokens)

    @property
    def n_scored(self) -> int:
        """Number of tokens whose output is scored."""
        return len(self) - self.n_prompt
