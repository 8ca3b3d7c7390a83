"""Layout of texts in a batch: packed as tries, or one text per row."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lofit.models.encoding import Example
from lofit.packing.trie import Role, Trie

# Length of a row, in tokens, at which attention costs as much as everything else. Measured on SmolLM2-135M, CPU,
# float32; in larger models attention is relatively cheaper, so for them the value is cautious.
EQUAL_LENGTH = 1000
PAD = 0
"""Id of the padding token. Every embedding has a row for it; for a tokenizer's own padding token it may have none."""


@dataclass(frozen=True)
class Rows:
    """A batch. The last ``width`` columns hold all scored tokens, those whose output predicts answers.

    Attributes:
        input_ids, position_ids: int64 [rows, length]; the last token of each text is a label only.
        attention_mask: packed: float [rows, 1, length, prefix + length], 0 where attended and the dtype's minimum
            elsewhere; unpacked: int64 [rows, length], 0 for padding.
        prompt, answer: bool [rows, length], as in :class:`lofit.interventions.spans.Spans`.
        width: number of columns, at the end, that hold scored tokens.
        row, column, label, text: int64 [answer tokens]: which output predicts which token of which text; columns are
            counted from the first of the last ``width``, texts over the whole batch.
        cell_row, cell_column: int64 [nodes], the position of each node of each trie, in the order of the tries.
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
    cell_row: torch.Tensor
    cell_column: torch.Tensor


def packed(
    rows: Sequence[Sequence[Trie]], pad_id: int, device: torch.device, dtype: torch.dtype, prefix: int = 0
) -> Rows:
    """Lay out several tries per row. Prompts end, and scored tokens begin, in the same column of every row.

    Args:
        rows: the tries of each row, built with this ``prefix``.
        pad_id: any token.
        device: device of the batch.
        dtype: dtype of the attention mask, which is that of the model.
        prefix: number of leading tokens, shared by all texts, whose keys and values are cached.
    """
    left = max(sum(trie.n_prompt for trie in tries) for tries in rows)
    width = max(sum(trie.n_scored for trie in tries) for tries in rows)
    columns, seen = [], torch.zeros((len(rows), 1, left + width, prefix + left + width), dtype=torch.bool)
    for row, tries in enumerate(rows):
        prompt, scored = left - sum(trie.n_prompt for trie in tries), left
        for trie in tries:
            at = torch.cat([torch.arange(prompt, prompt + trie.n_prompt), torch.arange(scored, scored + trie.n_scored)])
            seen[row, 0, at, :prefix] = True
            seen[row, 0, at[:, None], prefix + at] = trie.ancestors
            columns.append(at)
            prompt, scored = prompt + trie.n_prompt, scored + trie.n_scored
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    return _rows(rows, columns, (left + width, width), mask, pad_id, device)


def unpacked(texts: Sequence[Example], pad_id: int, device: torch.device) -> Rows:
    """Lay out one text per row, with left-padding, so that all texts end in the last column."""
    tries = [Trie([text]) for text in texts]
    length, width = max(len(trie) for trie in tries), max(trie.n_scored for trie in tries)
    columns = [torch.arange(length - len(trie), length) for trie in tries]
    mask = torch.zeros((len(tries), length), dtype=torch.long)
    for row, at in enumerate(columns):
        mask[row, at] = 1
    return _rows([[trie] for trie in tries], columns, (length, width), mask, pad_id, device)


def _rows(
    rows: Sequence[Sequence[Trie]],
    columns: Sequence[torch.Tensor],
    size: tuple[int, int],
    mask: torch.Tensor,
    pad_id: int,
    device: torch.device,
) -> Rows:
    """Build the batch; ``columns`` holds the columns of each trie's nodes, and ``size`` is (length, width)."""
    length, width = size
    tries = [trie for row in rows for trie in row]
    cell_row = torch.cat([torch.full((len(trie),), i) for i, row in enumerate(rows) for trie in row])
    cell_column = torch.cat(list(columns))
    cells = (cell_row, cell_column)
    ids, positions, roles = torch.full((len(rows), length), pad_id), *torch.zeros((2, len(rows), length)).long()
    roles = roles - 1
    ids[cells] = torch.cat([trie.tokens for trie in tries])
    positions[cells] = torch.cat([trie.depths for trie in tries])
    roles[cells] = torch.cat([trie.roles for trie in tries])
    targets, nodes, texts = [], 0, 0
    for trie in tries:
        targets.append(trie.targets + torch.tensor([nodes, 0, texts]))
        nodes, texts = nodes + len(trie), texts + trie.n_texts
    node, label, text = torch.cat(targets).T
    return Rows(
        to_device(ids, device),
        to_device(positions, device),
        to_device(mask, device),
        prompt=to_device((roles == Role.PROMPT) | (roles == Role.LAST_OF_PROMPT), device),
        answer=to_device(roles >= Role.LAST_OF_PROMPT, device),
        width=width,
        row=to_device(cell_row[node], device),
        column=to_device(cell_column[node] - (length - width), device),
        label=to_device(label, device),
        text=to_device(text, device),
        cell_row=to_device(cell_row, device),
        cell_column=to_device(cell_column, device),
    )


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a host tensor to a device without waiting for a GPU: it is sent from pinned memory, which stays."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def fill(sizes: Sequence[int]) -> list[list[int]]:
    """Distribute items over rows, with the number of rows that costs least.

    The largest item goes first, each item to the emptiest row. Every row is padded to the fullest one. A token costs
    more the longer its row is: attention over ``EQUAL_LENGTH`` tokens costs as much as everything else.

    Args:
        sizes: sizes of the items, in tokens.

    Returns:
        The indices of the items in each row, fullest rows first, in a deterministic order.
    """
    options = (_shared_out(sizes, n) for n in range(1, len(sizes) + 1))
    return min(options, key=lambda rows: len(rows) * (longest := _load(rows[0], sizes)) * (1 + longest / EQUAL_LENGTH))


def _shared_out(sizes: Sequence[int], n_rows: int) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(n_rows)]
    emptiest = [(0, row) for row in range(n_rows)]
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        load, row = emptiest[0]
        rows[row].append(i)
        heapq.heapreplace(emptiest, (load + sizes[i], row))
    return sorted(rows, key=lambda row: -_load(row, sizes))


def _load(row: Sequence[int], sizes: Sequence[int]) -> int:
    return sum(sizes[i] for i in row)
