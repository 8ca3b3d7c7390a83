"""Log-probabilities of answers under a model that is being fitted, without computing more than they need.

Nothing is approximated: several texts share a row of a batch, what the texts of a pair share is computed once, the last
layer runs only where its output is read, the output head runs on answers only, and the input of the first trained layer
is computed once for all epochs (:mod:`lofit.training.cached_prefix`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch

from lofit.models.encoding import Row
from lofit.packing.forward import answer_log_probs, answer_logits
from lofit.packing.last_layer import LastLayerTrim
from lofit.packing.rows import Rows, fill, packed, unpacked
from lofit.packing.support import longest_packable, refuse_virtual_tokens, supports_packing
from lofit.packing.trie import Trie
from lofit.training.cached_prefix import PrefixStore, decoder_layers, first_trained_layer


class Forward:
    """The forward pass of one model on rows of examples."""

    def __init__(self, model: Any, rows: Sequence[Row], pad_id: int) -> None:
        """Find out whether the model can run on packed rows.

        Args:
            model: a causal language model, with its adapters.
            rows: all rows of examples that it will run on.
            pad_id: any token.

        Raises:
            LofitError: it cannot, and has virtual tokens.
        """
        self.model, self.pad_id = model, pad_id
        longest = max((len(text.ids) for row in rows for text in row), default=0)
        self.packs = longest <= longest_packable(model) and supports_packing(model)
        if not self.packs:
            refuse_virtual_tokens(model, longest)
        self.tail = LastLayerTrim(model) if self.packs else None
        self.store: PrefixStore | None = None
        self._tries: dict[Row, Trie] = {}

    def sizes(self, rows: Sequence[Row]) -> list[int]:
        """Return the number of tokens that are computed for each row."""
        return [len(self._trie(row)) if self.packs else sum(len(text.ids) - 1 for text in row) for row in rows]

    def log_probs(self, rows: Sequence[Row]) -> torch.Tensor:
        """Sum the log-probabilities of each text's answer tokens, with end-of-sequence where the rows have it.

        Args:
            rows: rows of examples, all with the same number of texts.

        Returns:
            float32 [rows, texts of a row].
        """
        batch, order = self._layout(rows)
        ordered = [rows[i] for i in order]
        with self.store.replay(batch, ordered) if self.store else contextlib.nullcontext():
            log_probs = answer_log_probs(self.model, batch, tail=self.tail)
        sums = torch.zeros(len(rows) * len(rows[0]), device=log_probs.device).index_add(0, batch.text, log_probs)
        places = torch.tensor(order, device=sums.device).argsort()
        return sums.view(len(rows), -1)[places]

    def logits(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the logits at the answer tokens of rows of one text each.

        Returns:
            float32 [answer tokens, vocabulary], those of a row together and in order; int64 [answer tokens], the row.
        """
        batch, order = self._layout(rows)
        ordered = [rows[i] for i in order]
        with self.store.replay(batch, ordered) if self.store else contextlib.nullcontext():
            logits = answer_logits(self.model, batch, tail=self.tail)[batch.row, batch.column]
        return logits, torch.tensor(order, device=batch.text.device)[batch.text]

    def keep_prefix(self, rows: Sequence[Row], batch_size: int, memory: float, disk: float) -> None:
        """Cache the input of the first trained layer, if there are layers before it and the cache is not too large.

        Args:
            rows: rows of examples; if they are cached, no others are taken from now on.
            batch_size: rows in one forward pass.
            memory: most bytes to keep in memory.
            disk: most bytes to keep on disk, if they do not fit into memory.
        """
        first, distinct = first_trained_layer(self.model), list(dict.fromkeys(rows))
        layers = decoder_layers(self.model)
        if not first or layers is None or not rows:
            return
        sizes = dict(zip(distinct, self.sizes(distinct), strict=True))
        width = self.model.config.get_text_config().hidden_size
        needed = sum(sizes.values()) * width * self.model.dtype.itemsize
        if needed > max(memory, disk):
            return
        store = PrefixStore(list(layers[:first]))
        store.allocate(distinct, list(sizes.values()), width, self.model.dtype, file=needed > memory)
        longest_first = sorted(distinct, key=lambda row: -sizes[row])
        for start in range(0, len(longest_first), batch_size):
            part = longest_first[start : start + batch_size]
            batch, order = self._layout(part)
            store.record(batch, [part[i] for i in order], lambda batch=batch: answer_log_probs(self.model, batch))  # type: ignore[misc]
        self.store = store

    def _layout(self, rows: Sequence[Row]) -> tuple[Rows, list[int]]:
        """Lay out rows as a batch; return it with the order in which it holds the rows."""
        device = self.model.device
        if not self.packs:
            return unpacked([text for row in rows for text in row], self.pad_id, device), list(range(len(rows)))
        tries = [self._trie(row) for row in rows]
        shared_out = fill([len(trie) for trie in tries])
        together = packed([[tries[i] for i in row] for row in shared_out], self.pad_id, device, self.model.dtype)
        return together, [i for row in shared_out for i in row]

    def _trie(self, row: Row) -> Trie:
        if row not in self._tries:
            self._tries[row] = Trie(row)
        return self._tries[row]
