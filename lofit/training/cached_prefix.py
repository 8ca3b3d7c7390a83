"""Cache of the hidden states that enter the first trained layer, which do not change during training."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lofit.errors import EditError
from lofit.files import reserve
from lofit.interventions import find_site
from lofit.models.encoding import Row
from lofit.packing.patch import patched_forward
from lofit.packing.rows import Rows, to_device

GB = 10**9


def decoder_layers(model: Any) -> nn.ModuleList | None:
    """Return the model's list of decoder layers; None if the structure of the model is unknown."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    try:
        layers = base.get_submodule(find_site(base).layers)
    except EditError:
        return None
    assert isinstance(layers, nn.ModuleList)
    return layers


def first_trained_layer(model: Any) -> int:
    """Return the index of the first trained decoder layer, which is the number of layers whose output never changes.

    It is 0 if a parameter outside the layers is trained, or if later layers read keys and values of earlier ones.
    """
    layers = decoder_layers(model)
    if layers is None or getattr(model.config.get_text_config(), "num_kv_shared_layers", None):
        return 0
    # A parameter that several layers share is of the first of them.
    layer_of = {id(p): number for number, layer in reversed([*enumerate(layers)]) for p in layer.parameters()}
    return min((layer_of.get(id(p), 0) for p in model.parameters() if p.requires_grad), default=0)


class _StopForward(Exception):
    """Ends a forward pass once the layers that are needed have run."""


class PrefixStore:
    """Hidden states [tokens, hidden size] that enter the first trained layer, by row of examples.

    They are kept on the CPU, in the model's dtype, in memory or in an unlinked temporary file.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        """Create an empty store.

        Args:
            layers: the decoder layers before the first trained one.
        """
        self._layers = layers
        self._places: dict[Row, slice] = {}
        self._hidden = torch.empty(0)
        self._as_layer_returns: Callable[[torch.Tensor], Any] = lambda hidden: hidden

    def allocate(self, rows: Sequence[Row], sizes: Sequence[int], width: int, dtype: torch.dtype, file: bool) -> None:
        """Allocate the store.

        Args:
            rows: distinct rows of examples.
            sizes: number of tokens of each row.
            width: the hidden size.
            dtype: dtype of the model.
            file: whether to use a file on disk.
        """
        end = 0
        for row, size in zip(rows, sizes, strict=True):
            self._places[row] = slice(end, end + size)
            end += size
        if file:
            with tempfile.NamedTemporaryFile(prefix="lofit-hidden-") as unnamed:
                flat = torch.from_file(unnamed.name, shared=True, size=end * width, dtype=dtype)
                reserve(Path(unnamed.name))
            self._hidden = flat.view(end, width)
        else:
            self._hidden = torch.empty(end, width, dtype=dtype)

    @torch.no_grad()
    def record(self, batch: Rows, rows: Sequence[Row], run: Callable[[], Any]) -> None:
        """Compute and store the hidden states of a batch.

        Args:
            batch: the rows as a batch, in this order.
            rows: rows of examples.
            run: runs the model on the batch; it is stopped before the first trained layer.
        """
        found: list[torch.Tensor] = []

        def stop(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, torch.Tensor):  # a tuple, or a list (openai-gpt)
                rest = (None,) * (len(output) - 1)
                self._as_layer_returns = lambda hidden: (hidden, *rest)
                output = output[0]
            found.append(output)
            raise _StopForward

        handle = self._layers[-1].register_forward_hook(stop)
        try:
            with contextlib.suppress(_StopForward):
                run()
        finally:
            handle.remove()
        # If the model is spread over several devices, the layer may be on another one than the batch.
        at = (batch.cell_row.to(found[0].device), batch.cell_column.to(found[0].device))
        nodes = found[0][at].cpu()
        for row, part in zip(rows, nodes.split([self._size(row) for row in rows]), strict=True):
            self._hidden[self._places[row]] = part

    def _size(self, row: Row) -> int:
        place = self._places[row]
        return place.stop - place.start

    @contextlib.contextmanager
    def replay(self, batch: Rows, rows: Sequence[Row]) -> Iterator[None]:
        """Context in which the layers before the first trained one are skipped, and the last of them returns the cache.

        Args:
            batch: the rows as a batch, in this order.
            rows: rows of examples.
        """
        nodes = to_device(torch.cat([self._hidden[self._places[row]] for row in rows]), batch.input_ids.device)
        hidden = torch.zeros(*batch.input_ids.shape, nodes.shape[-1], dtype=nodes.dtype, device=nodes.device)
        hidden[batch.cell_row, batch.cell_column] = nodes

        def skipped(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            return self._as_layer_returns(hidden_states)

        def kept(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            return self._as_layer_returns(hidden)

        with contextlib.ExitStack() as stack:
            for layer in self._layers[:-1]:
                stack.enter_context(patched_forward(layer, skipped))
            stack.enter_context(patched_forward(self._layers[-1], kept))
            yield
