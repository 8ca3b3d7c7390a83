"""Save points of training: a killed fit resumes from the last one, bit for bit as if it had not been interrupted."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lofit.files import atomic_path

GENERATOR = "generator"
KEPT = "kept"


def fingerprint(*parts: Any) -> str:
    """Return the SHA-256 of what training starts from: tensors by their bytes, all else as JSON, or by its ``repr``."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True, default=_plain).encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return sorted(map(repr, value)) if isinstance(value, set | frozenset) else repr(value)  # sets have no order


class SavePoint:
    """The state of a training loop, in one safetensors file.

    It holds every trained parameter with its optimizer state and its value in the best epoch if that is kept, the state
    of the random generator if training uses one, and the record of the loop as JSON. It is replaced atomically, so a
    kill leaves the previous save point.
    """

    def __init__(self, file: Path | None, start: str, minutes: float | None) -> None:
        """Set up a save point; nothing is read or written yet.

        Args:
            file: path of the save point; None: training is not saved.
            start: :func:`fingerprint` of what training starts from; a save point with another one is not used.
            minutes: minutes between two saves; None: training is not saved.
        """
        self.file = None if minutes is None else file
        self.start = start
        self._pause = 60 * (minutes or 0)
        self._last = time.perf_counter()

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return self.file is not None and time.perf_counter() - self._last >= self._pause

    def save(
        self,
        trained: Sequence[torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator | None,
        record: dict[str, Any],
        kept: Sequence[torch.Tensor] = (),
    ) -> None:
        """Write the save point.

        Args:
            trained: the trained parameters, in the optimizer's order.
            optimizer: optimizer with a state for every parameter.
            generator: generator of random numbers in training other than the order of batches; None: there are none.
            record: record of the loop, as plain data.
            kept: the trained values of the best epoch; empty if there are none.
        """
        assert self.file is not None
        tensors = {f"{at}/value": p.detach() for at, p in enumerate(trained)}
        for at, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{at}/{name}": torch.as_tensor(value) for name, value in state.items()}
        tensors |= {f"{at}/{KEPT}": value for at, value in enumerate(kept)}
        if generator is not None:
            tensors[GENERATOR] = generator.get_state()
        with atomic_path(self.file) as part:
            # The format does not allow tensors that share memory, so each of them is copied.
            copies = {name: tensor.cpu().clone().contiguous() for name, tensor in tensors.items()}
            save_file(copies, part, {"start": self.start, "record": json.dumps(record)})
        self._last = time.perf_counter()

    def load(
        self,
        trained: Sequence[torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator | None,
        kept: list[torch.Tensor],
    ) -> dict[str, Any] | None:
        """Restore parameters, optimizer and generator, and put the values of the best epoch into ``kept``.

        Returns:
            The record of the loop; None, with nothing restored, if there is no readable save point with this start.
        """
        if self.file is None or not self.file.is_file():
            return None
        try:
            with safe_open(self.file, framework="pt") as stored:
                about = stored.metadata() or {}
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  # not a mapping
        except SafetensorError:
            return None
        if about.get("start") != self.start:
            return None
        state: dict[int, dict[str, torch.Tensor]] = {at: {} for at in range(len(trained))}
        if generator is not None:
            generator.set_state(tensors.pop(GENERATOR))
        for name, tensor in tensors.items():
            at, key = name.split("/")
            state[int(at)][key] = tensor
        with torch.no_grad():
            for at, parameter in enumerate(trained):
                parameter.copy_(state[at].pop("value"))
        kept[:] = [state[at].pop(KEPT) for at in range(len(trained)) if KEPT in state[at]]
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        found: dict[str, Any] = json.loads(about["record"])
        return found
