"""The nodes of a run table: what each is told by, and its id.

A node's path carries model, task, fold, seed and method; the rest of what determines its result is in a short hash of
its identity, which stands in full in ``run.json`` beside the outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from lofit.files import short_hash
from lofit.spec.protocol import Backend, Protocol


class Node:
    """A node whose identity is its fields: together they determine its files."""

    @property
    def id(self) -> str:
        """Its place below the folder of its kind, and its name on the command line."""
        raise NotImplementedError

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The fields as plain data, as JSON would give them back; nodes among them as their own identities.

        The training seed is part of it only where it is not that of the split.
        """
        found = {entry.name: _plain(getattr(self, entry.name)) for entry in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in found.items() if (name, value) != ("training_seed", None)}


def _plain(value: Any) -> Any:
    if isinstance(value, Node):
        return value.identity
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class DataNode(Node):
    """The split of one task for one fold and seed."""

    task: str
    fold: int
    seed: int
    options: dict[str, Any]
    path: str | None = None

    @cached_property
    def id(self) -> str:
        """Path of the node below ``resources/tasks``."""
        return f"{self.task}/fold{self.fold}/seed{self.seed}-{short_hash(self.identity)}"


@dataclass(frozen=True)
class ActivationsNode(Node):
    """Activations of a model on the right and wrong answers of one split."""

    model: str
    model_source: dict[str, Any]
    dtype: str
    data: DataNode

    @property
    def own_seed(self) -> int:
        """Seed of what is random in the node itself."""
        return self.data.seed

    @cached_property
    def id(self) -> str:
        """Path of the node below ``results/activations``."""
        data = self.data
        return f"{self.model}/{data.task}/fold{data.fold}/seed{data.seed}-{short_hash(self.identity)}"


@dataclass(frozen=True)
class LocalizeNode(Node):
    """A ranking of all heads of a model on one task."""

    model: str
    model_source: dict[str, Any]
    dtype: str
    data: DataNode
    localizer: str
    params: dict[str, Any]
    training_seed: int | None = field(default=None, kw_only=True)

    @property
    def own_seed(self) -> int:
        """Seed of what is random in the node itself; the split has its own."""
        return self.data.seed if self.training_seed is None else self.training_seed

    @cached_property
    def id(self) -> str:
        """Path of the node below ``results/localize``."""
        data = self.data
        return f"{self.model}/{data.task}/fold{data.fold}/seed{data.seed}/{self.localizer}-{short_hash(self.identity)}"


@dataclass(frozen=True)
class FitNode(Node):
    """One fitted method: the unit of comparison.

    ``k`` is the number of heads it edits, or the numbers it chooses from on validation; empty without selected heads.
    """

    model: str
    model_source: dict[str, Any]
    dtype: str
    data: DataNode
    method: str
    params: dict[str, Any]
    ranking: LocalizeNode | None
    k: tuple[int, ...]
    training_seed: int | None = field(default=None, kw_only=True)

    @cached_property
    def id(self) -> str:
        """Path of the node below ``results/runs``."""
        data = self.data
        return f"{self.model}/{data.task}/fold{data.fold}/seed{data.seed}/{self.label}-{short_hash(self.identity)}"

    @property
    def label(self) -> str:
        """What the node's folder is called, before the hash."""
        return self.method

    @property
    def seed(self) -> int:
        """Seed of the draw of the training subset, and of training unless that has its own."""
        return self.data.seed

    @property
    def own_seed(self) -> int:
        """Seed of training."""
        return self.data.seed if self.training_seed is None else self.training_seed


@dataclass(frozen=True)
class TunedNode(FitNode):
    """The best of several fits of one method on one split, by the validation loss of the split.

    What the candidates may differ in (``params``, ``ranking``) is here that of the first of them; ``k`` holds the
    numbers of heads of all of them. ``points`` says by which settings each was told from the others.
    """

    candidates: tuple[FitNode, ...]
    points: tuple[dict[str, Any], ...]

    @property
    def label(self) -> str:
        """What the node's folder is called, before the hash."""
        return f"{self.method}-tuned"


@dataclass(frozen=True)
class EvalNode(Node):
    """A fitted method scored on the test items of one task, its own or another, under one protocol, by one backend."""

    fit: FitNode
    data: DataNode
    protocol: Protocol
    backend: Backend

    @cached_property
    def id(self) -> str:
        """Path of the node below ``results/runs``."""
        fold = f"fold{self.data.fold}-{short_hash([self.data.identity, self.backend])}"
        return f"{self.fit.id}/eval/{self.protocol}/{self.data.task}/{fold}"

    @property
    def own(self) -> bool:
        """Whether the items are of the split the method was fitted on."""
        return self.data == self.fit.data


@dataclass(frozen=True)
class ExperimentRun:
    """A run of an experiment.

    Attributes:
        label: of the arm.
        x: place on the experiment's axis: a number or share of heads, or a number of training examples.
        fit: the run.
    """

    label: str
    x: float | None
    fit: FitNode
