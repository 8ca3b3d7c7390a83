"""The nodes of a run table: what determines each, its id and its folder.

A node's id carries model, task, fold, seed and method; the rest of what determines its result is in a short hash of
its identity, which is written in full to ``run.json`` beside the outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from lofit.experiments import DamageConfig
from lofit.files import short_hash
from lofit.spec.protocol import Backend, Protocol


class Node:
    """A node whose identity is its fields: together they determine its files.

    Attributes:
        PATTERN: of ids, with Snakemake's wildcards.
        FOLDER: which folder of the configuration (``results`` or ``resources``), and where below it ids are paths.
    """

    PATTERN: ClassVar[str]
    FOLDER: ClassVar[tuple[str, str]]

    @cached_property
    def wildcards(self) -> dict[str, Any]:
        """Values of the wildcards of ``PATTERN``."""
        raise NotImplementedError

    @property
    def subject(self) -> str:
        """What tells its cost from those of others of its kind: a localizer, or a method."""
        return ""

    @cached_property
    def id(self) -> str:
        """The node's path below ``FOLDER``, and its name on the command line."""
        return self.PATTERN.format(**self.wildcards)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The fields as plain data, as JSON would give them back; nodes among them as their own identities.

        Fields that can only be given by name are part of it only where they are not what they are by default.
        """
        found = {entry: getattr(self, entry.name) for entry in fields(self)}  # type: ignore[arg-type]
        return {at.name: _plain(value) for at, value in found.items() if not (at.kw_only and value == at.default)}


def _plain(value: Any) -> Any:
    if isinstance(value, Node):
        return value.identity
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class ModelNode(Node):
    """A base model, from wherever it is fetched."""

    PATTERN = "{model}-{hash}"
    FOLDER = "resources", "models"

    model: str
    source: dict[str, Any]

    @cached_property
    def wildcards(self) -> dict[str, Any]:
        """Values of the wildcards of ``PATTERN``."""
        return {"model": self.model, "hash": short_hash(self.source)}


@dataclass(frozen=True)
class DataNode(Node):
    """The split of one task for one fold and seed, and whether its prompts are read as messages of a chat."""

    PATTERN = "{task}/fold{fold}/seed{seed}-{hash}"
    FOLDER = "resources", "tasks"

    task: str
    fold: int
    seed: int
    options: dict[str, Any]
    path: str | None = None
    read: dict[str, Any] | None = field(default=None, kw_only=True)
    chat: dict[str, Any] | None = field(default=None, kw_only=True)

    @cached_property
    def wildcards(self) -> dict[str, Any]:
        """Values of the wildcards of ``PATTERN``."""
        return {"task": self.task, "fold": self.fold, "seed": self.seed, "hash": short_hash(self.identity)}


class _OnTask(Node):
    """A node that stands on the split of a task, and passes on what that is."""

    data: Any
    chat: ClassVar[None] = None
    """Prompts of the rows that it writes are worded already."""

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.data.task)

    @property
    def fold(self) -> int:
        """Fold of the task."""
        return int(self.data.fold)

    @property
    def options(self) -> dict[str, Any]:
        """Options of the task."""
        return dict(self.data.options)

    @property
    def path(self) -> str | None:
        """Where a custom task is."""
        found: str | None = self.data.path
        return found

    @property
    def read(self) -> dict[str, Any] | None:
        """What the columns of a custom task's file mean."""
        found: dict[str, Any] | None = self.data.read
        return found


@dataclass(frozen=True)
class EffectsNode(_OnTask):
    """What the damage of every single head of a model does to its own answers on one split."""

    PATTERN = "{model}/{task}/fold{fold}/seed{seed}/{damage}-{hash}"
    FOLDER = "results", "effects"

    model: str
    model_source: dict[str, Any]
    dtype: str
    data: DataNode
    damage: DamageConfig
    tokens: int

    @property
    def own_seed(self) -> int:
        """Seed of what is random in the node itself."""
        return self.data.seed

    @cached_property
    def wildcards(self) -> dict[str, Any]:
        """Values of the wildcards of ``PATTERN``."""
        own = {"model": self.model, "damage": self.damage.label, "hash": short_hash(self.identity)}
        return {**self.data.wildcards, **own}

    @property
    def subject(self) -> str:
        """The damage."""
        return self.damage.label


@dataclass(frozen=True)
class PlantNode(_OnTask):
    """A model damaged at ``k`` heads, with rows that the intact model has answered.

    It stands in the place of a split as the data of what is fitted; its seed is the number of its draw.
    """

    PATTERN = "{model}/{task}/fold{fold}/seed{seed}/{damage}-{hash}"
    FOLDER = "results", "planted"

    data: EffectsNode
    k: int
    draw: int
    targets: Literal["dense", "sparse"]

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.data.model

    @property
    def dtype(self) -> str:
        """Precision of the model."""
        return self.data.dtype

    @property
    def seed(self) -> int:
        """Number of the draw."""
        return self.draw

    @property
    def own_seed(self) -> int:
        """Seed of what is random in the node itself."""
        return self.draw

    @cached_property
    def wildcards(self) -> dict[str, Any]:
        """Values of the wildcards of ``PATTERN``."""
        return {**self.data.wildcards, "seed": self.draw, "hash": short_hash(self.identity)}

    @property
    def subject(self) -> str:
        """The damage."""
        return self.data.subject


@dataclass(frozen=True)
class ActivationsNode(Node):
    """Activations of a model on the right and wrong answers of one split."""

    PATTERN = "{model}/" + DataNode.PATTERN
    FOLDER = "results", "activations"

    model: str
    model_source: dict[str, Any]
    dtype: str
    data: DataNode | PlantNode

    @property
    def own_seed(self) -> int:
        """Seed of what is random in the node itself."""
        return self.data.seed

    @cached_property
    def wildcards(self) -> dict[str, Any]:
        """Values of the wildcards of ``PATTERN``."""
        return {**self.data.wildcards, "model": self.model, "hash": short_hash(self.identity)}


@dataclass(frozen=True)
class LocalizeNode(Node):
    """A ranking of all heads of a model on one task."""

    PATTERN = "{model}/{task}/fold{fold}/seed{seed}/{localizer}-{hash}"
    FOLDER = "results", "localize"

    model: str
    model_source: dict[str, Any]
    dtype: str
    data: DataNode | PlantNode
    localizer: str
    params: BaseModel
    training_seed: int | None = field(default=None, kw_only=True)

    @property
    def own_seed(self) -> int:
        """Seed of what is random in the node itself; the split has its own."""
        return self.data.seed if self.training_seed is None else self.training_seed

    @cached_property
    def wildcards(self) -> dict[str, Any]:
        """Values of the wildcards of ``PATTERN``."""
        own = {"model": self.model, "localizer": self.localizer, "hash": short_hash(self.identity)}
        return {**self.data.wildcards, **own}

    @property
    def subject(self) -> str:
        """The localizer."""
        return self.localizer


@dataclass(frozen=True)
class FitNode(Node):
    """One fitted method: the unit of comparison.

    ``k`` is the number of heads it edits, or the numbers it chooses from on validation; empty without selected heads.
    They are the first of the ranking, or with ``bottom`` the last. ``select_by`` says what decides between the settings
    that it chooses from on validation; None if there are none.
    """

    PATTERN = "{model}/{task}/fold{fold}/seed{seed}/{method}-{hash}"
    FOLDER = "results", "runs"

    model: str
    model_source: dict[str, Any]
    dtype: str
    data: DataNode | PlantNode
    method: str
    params: BaseModel
    ranking: LocalizeNode | None
    k: tuple[int, ...]
    training_seed: int | None = field(default=None, kw_only=True)
    bottom: bool = field(default=False, kw_only=True)
    select_by: Literal["metric", "loss"] | None = field(default=None, kw_only=True)

    @cached_property
    def wildcards(self) -> dict[str, Any]:
        """Values of the wildcards of ``PATTERN``."""
        own = {"model": self.model, "method": self.label, "hash": short_hash(self.identity)}
        return {**self.data.wildcards, **own}

    @property
    def subject(self) -> str:
        """The method."""
        return self.method

    @property
    def label(self) -> str:
        """What the node's folder is called, before the hash."""
        return self.method

    @property
    def selector(self) -> str | None:
        """By what its heads are selected, for tables."""
        return f"{self.ranking.localizer}{' (bottom)' if self.bottom else ''}" if self.ranking else None

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
    """The best of several fits of one method on one split, by their scores on its validation rows.

    What the candidates may differ in (``params``, ``ranking``) is here that of the first of them; ``k`` holds the
    numbers of heads of all of them. ``points`` says by which settings each was told from the others. If it ``extends``
    them, which differ in the learning rate alone then, the node makes fits at further rates while the outermost is the
    best. With ``leader`` the node takes what that one chose, which has the same candidates for another seed or other
    heads, and makes that single fit itself.
    """

    candidates: tuple[FitNode, ...]
    points: tuple[dict[str, Any], ...]
    extends: bool = field(default=False, kw_only=True)
    leader: TunedNode | None = field(default=None, kw_only=True)

    def at_rate(self, lr: float) -> FitNode:
        """The candidates' fit at another learning rate."""
        return replace(self.candidates[0], params=self.candidates[0].params.model_copy(update={"lr": lr}))

    @property
    def rankings(self) -> list[LocalizeNode]:
        """Rankings of the heads of all candidates, each once."""
        return list({fit.ranking.id: fit.ranking for fit in self.candidates if fit.ranking}.values())

    @property
    def label(self) -> str:
        """What the node's folder is called, before the hash."""
        return f"{self.method}-tuned"


@dataclass(frozen=True)
class EvalNode(Node):
    """A fitted method scored on the test items of one task, its own or another, under one protocol, by one backend."""

    PATTERN = FitNode.PATTERN + "/eval/{protocol}/{eval_task}/fold{eval_fold}-{eval_hash}"
    FOLDER = FitNode.FOLDER

    fit: FitNode
    data: DataNode
    protocol: Protocol
    backend: Backend

    @cached_property
    def wildcards(self) -> dict[str, Any]:
        """Values of the wildcards of ``PATTERN``."""
        own = {"protocol": self.protocol, "eval_task": self.data.task, "eval_fold": self.data.fold}
        return {**self.fit.wildcards, **own, "eval_hash": short_hash([self.data.identity, self.backend])}

    @property
    def model(self) -> str:
        """Name of the base model."""
        return self.fit.model

    @property
    def subject(self) -> str:
        """The method."""
        return self.fit.method

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


@dataclass(frozen=True)
class PlantedRun:
    """A ranking of the heads of a damaged model, and what is fitted on its best heads.

    Attributes:
        label: of the arm.
        ranking: the ranking.
        fit: the run; None if nothing is fitted.
        bottom: whether it is of the heads that are ranked last.
    """

    label: str
    ranking: LocalizeNode
    fit: FitNode | None
    bottom: bool

    @property
    def plant(self) -> PlantNode:
        """The damaged model."""
        assert isinstance(self.ranking.data, PlantNode)
        return self.ranking.data
