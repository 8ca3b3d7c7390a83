"""What a kind of input is to the fuzzer: how cases are made, and what may come of one."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from lofit.errors import LofitError


@dataclass(frozen=True)
class Kind:
    """Inputs of one kind.

    Attributes:
        name: in the table.
        cases: strategy of inputs, most of them broken.
        use: does with a case, in an empty folder, what the product would. Returns if the input is taken; raises a
            LofitError if it is refused. Everything else that it raises is a crash.
    """

    name: str
    cases: SearchStrategy[Any]
    use: Callable[[Any, Path], None]


@dataclass
class Tally:
    """What came of the inputs of one kind."""

    accepted: int = 0
    refused: int = 0
    crashes: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def tried(self) -> int:
        """Number of inputs."""
        return self.accepted + self.refused + len(self.crashes)


class UnclearError(AssertionError):
    """An error was raised as it should be, but does not say what it should, or left something behind."""


def check_clear(error: LofitError) -> None:
    """Refuse a message that is empty, is not one printable line, or does not end."""
    message = str(error)
    if not message.strip() or len(message) > 2100 or not message.isprintable():
        raise UnclearError(f"not one clear line: {message!r}")


@contextmanager
def empty_folder() -> Iterator[Path]:
    """A new folder that is the working directory for a while."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="lofit-fuzz-") as name:
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


def tally(kind: Kind, examples: int, seeded: int) -> Tally:
    """Try some inputs of a kind, the same for the same seed."""
    found = Tally()

    @seed(seeded)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(kind.cases)
    def try_one(case: Any) -> None:
        with empty_folder() as folder:
            try:
                kind.use(case, folder)
                found.accepted += 1
            except LofitError as error:
                try:
                    check_clear(error)
                    found.refused += 1
                    found.reasons[str(error).replace(str(folder), "")[:100]] += 1
                except UnclearError as unclear:
                    found.crashes.append(f"{unclear} <- {case!r}")
            except Exception as error:
                found.crashes.append(f"{type(error).__name__}: {error} <- {case!r}")

    try_one()
    return found
