"""What stands on several devices meets on one of them: fake tensors, with CUDA's own rule for indices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from lofit.models.encoding import Example, Row
from lofit.packing.rows import packed, to_device
from lofit.packing.trie import Trie
from lofit.training.cached_prefix import PrefixStore

ROWS: list[Row] = [(Example((5, 6, 7, 8, 2), 3),), (Example((11, 12, 2), 1),)]


class StrictIndices(TorchFunctionMode):
    """Indices must be on the CPU or where the indexed tensor is, as on real GPUs; fake tensors do not mind."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.__getitem__:
            indices = args[1] if isinstance(args[1], tuple) else (args[1],)
            places = {index.device for index in indices if isinstance(index, torch.Tensor)}
            if places - {torch.device("cpu"), args[0].device}:
                raise RuntimeError(f"indices on {places}, the indexed tensor on {args[0].device}")
            if all(isinstance(index, torch.Tensor) for index in indices):  # which a CPU build of torch can do too
                return torch.ops.aten.index.Tensor(args[0], list(indices))
        return function(*args, **(kwargs or {}))


@contextmanager
def two_gpus() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True), StrictIndices():
        yield


def test_the_rule_is_cudas() -> None:
    with two_gpus():
        values, at = torch.empty(4, 5, device="cuda:1"), torch.zeros(2, dtype=torch.long, device="cuda:0")
        assert values[at.to("cuda:1")].shape == values[at.cpu()].shape == (2, 5)
        with pytest.raises(RuntimeError, match="indices on"):
            values[at]


def test_hidden_states_are_kept_of_a_layer_on_another_gpu_than_the_batch() -> None:
    class Layer(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    layer, width = Layer(), 3
    sizes = [len(Trie(row)) for row in ROWS]
    plain = packed([[Trie(row)] for row in ROWS], 0, torch.device("cpu"), torch.float32)
    with two_gpus():
        there = {name: value.to("cuda:0") for name, value in vars(plain).items() if isinstance(value, torch.Tensor)}
        batch = type(plain)(**{**vars(plain), **there})
        store = PrefixStore([layer])
        store.allocate(ROWS, sizes, width, torch.float32, file=False)
        store.record(batch, ROWS, lambda: layer(torch.empty(*batch.input_ids.shape, width, device="cuda:1")))


def test_batches_are_sent_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pinned:
        def to(self, device: torch.device, *, non_blocking: bool) -> tuple[torch.device, bool]:
            return device, non_blocking

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: Pinned())
    assert to_device(torch.zeros(2), torch.device("cuda:0")) == (torch.device("cuda:0"), True)
    assert torch.equal(to_device(torch.ones(2), torch.device("cpu")), torch.ones(2))
