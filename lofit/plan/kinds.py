"""The kinds of nodes: for each, which nodes a run table has of it, what they read and what they write.

The only place that says so: the workflow's rules, the command line, ``lofit train``, ``lofit mark-failed``, the
estimate, the costs and the tests loop over :data:`KINDS`. What a node does is in ``lofit/nodes/<kind>.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lofit import localizers, methods
from lofit.activations.names import FILES as ACTIVATION_FILES
from lofit.errors import SourceError
from lofit.files import read_json, require
from lofit.node_server.client import MODEL_KINDS
from lofit.plan.nodes import (
    ActivationsNode,
    DataNode,
    EffectsNode,
    EvalNode,
    FitNode,
    LocalizeNode,
    ModelNode,
    Node,
    PlantNode,
    TunedNode,
)
from lofit.plan.table import RunTable
from lofit.registry import source_hash
from lofit.sources.models import model_files, state
from lofit.spec.protocol import HARNESS, OPEN, scoring

Inputs = dict[str, list[Path]]
"""Files that a node reads, by what they are."""


@dataclass(frozen=True)
class NodeKind:
    """One kind of node.

    Attributes:
        name: of its rule, of its folder of logs, of its module in ``lofit.nodes``, and on the command line.
        node: class of its nodes.
        files: what a node writes into its folder; the last says how it went, and is written last.
        nodes: the run table's nodes of this kind, by id.
        inputs: what a node reads, all of it written by other nodes or by the user.
        triggers: what else makes a node run again when it changes, as plain data.
    """

    name: str
    node: type[Node]
    files: tuple[str, ...]
    nodes: Callable[[RunTable], Mapping[str, Any]]
    inputs: Callable[[RunTable, Any], Inputs]
    triggers: Callable[[RunTable, Any], Any] = lambda table, node: None

    @property
    def runs_model(self) -> bool:
        """Whether its nodes run a model: with threads, a GPU and limits, and a status if they fail."""
        return self.name in MODEL_KINDS

    def outputs(self, table: RunTable, node: Node) -> list[Path]:
        """What a node writes."""
        return [table.folder(node) / file for file in self.files]

    def report(self, table: RunTable, node: Node) -> Path:
        """The file in which a node says how it went."""
        return table.folder(node) / self.files[-1]

    def read_report(self, table: RunTable, node: Node) -> dict[str, Any]:
        """How a node went.

        Raises:
            LofitError: it has not run.
        """
        report: dict[str, Any] = read_json(require(self.report(table, node), f"node {self.name} {node.id}"))
        return report

    def log(self, table: RunTable, id: str) -> Path:
        """Log of a node in the workflow, by its id or by the pattern of all ids."""
        return table.config.results / "logs" / self.name / f"{id}.log"


def kind_of(node: Node) -> NodeKind:
    """The kind of a node."""
    return next(kind for kind in KINDS if type(node) is kind.node)


def counts(table: RunTable) -> dict[str, int]:
    """Number of nodes of each kind that there are any of."""
    return {kind.name: n for kind in KINDS if (n := len(kind.nodes(table)))}


def _model_source(table: RunTable, node: ModelNode) -> Inputs:
    """All files of a model that is a folder of this machine."""
    source = table.config.model_entry(node.model).source
    if source.kind != "local":
        return {}
    try:
        return {"files": list(model_files(source.path))}
    except SourceError:  # the node says what is wrong with it
        return {"files": [source.path / "config.json"]}


def _model_state(table: RunTable, node: ModelNode) -> Any:
    """The model's entry, without what it takes to run it; and what shows that a local file was replaced."""
    entry = table.config.model_entry(node.model)
    try:
        files = state(entry.source.path) if entry.source.kind == "local" else None
    except SourceError:
        files = None
    return [entry.model_dump(mode="json", exclude={"billions", "gpus"}), files]


def _task_files(table: RunTable, node: DataNode) -> Inputs:
    return {"files": list(table.config.task(node.task).files)}


def _overrides(table: RunTable, node: FitNode | EvalNode) -> Mapping[str, Any]:
    """What a custom task's file says of how its answers are generated."""
    return table.config.task(node.data.task).overrides


def _model(table: RunTable, *names: str) -> list[Path]:
    return [table.model_dir(name) / FETCH.files[-1] for name in names]


def _data(table: RunTable, node: Node, *splits: str) -> list[Path]:
    return [table.folder(node) / f"{split}.jsonl" for split in splits]


def _training(table: RunTable, node: ActivationsNode | LocalizeNode | FitNode) -> Inputs:
    """Model and rows, and the activations and the ranking that the node uses."""
    found = {"model": _model(table, node.model), "data": _data(table, node.data, "train", "validation")}
    if isinstance(node.data, PlantNode):
        found["planted"] = PLANT.outputs(table, node.data)[2:]
    if not isinstance(node, ActivationsNode) and (used := table.activations_of(node)):
        found["activations"] = CAPTURE.outputs(table, used)
    if isinstance(node, FitNode) and node.ranking:
        found["heads"] = LOCALIZE.outputs(table, node.ranking)
    return found


def _settings(table: RunTable, node: TunedNode) -> Inputs:
    """Every candidate, or the node that has chosen; what ranking their heads took; and what a fit reads."""
    if node.leader:
        found = {"chosen": SELECT_BEST.outputs(table, node.leader)}
    else:
        found = {"fits": _all(FIT, table, node.candidates)}
    found["rankings"] = _all(LOCALIZE, table, node.rankings)
    return found | _training(table, node) if node.leader or node.extends else found


def _effects(table: RunTable, node: EffectsNode) -> Inputs:
    return {"model": _model(table, node.model), "data": _data(table, node.data, "train", "validation")}


def _plant(table: RunTable, node: PlantNode) -> Inputs:
    return {"model": _model(table, node.model), "effects": EFFECTS.outputs(table, node.data)}


def _scoring(table: RunTable, node: EvalNode) -> Inputs:
    """Model, test items, what was fitted, judges, and training rows that are shown as examples."""
    method, judges = methods.load_method(node.fit.method), table.config.judges
    found = {"model": _model(table, node.model), "data": _data(table, node.data, "test")}
    if method.fit:
        found["fit"] = FIT.outputs(table, node.fit)
    if scoring(node.protocol) == OPEN and judges:
        found["judges"] = _model(table, judges.truth, judges.info)
    if scoring(node.protocol) == HARNESS or method.shots:
        found["examples"] = _data(table, node.data, "train")
    return found


def _all(kind: NodeKind, table: RunTable, nodes: Iterable[Node]) -> list[Path]:
    return [path for node in nodes for path in kind.outputs(table, node)]


FETCH = NodeKind("fetch", ModelNode, ("source.json",), lambda table: table.models, _model_source, _model_state)
PREPARE = NodeKind(
    "prepare",
    DataNode,
    ("train.jsonl", "validation.jsonl", "test.jsonl", "manifest.json"),
    lambda table: table.data,
    _task_files,
    lambda table, node: dict(table.config.task(node.task).described) or None,
)
ROWS = ("train.jsonl", "validation.jsonl", "damage.safetensors")
EFFECTS = NodeKind(
    "effects", EffectsNode, (*ROWS, "effects.parquet", "effects.json"), lambda table: table.effects, _effects
)
PLANT = NodeKind("plant", PlantNode, (*ROWS, "plant.json"), lambda table: table.plants, _plant)
CAPTURE = NodeKind("capture", ActivationsNode, ACTIVATION_FILES, lambda table: table.activations, _training)
LOCALIZE = NodeKind(
    "localize",
    LocalizeNode,
    ("heads.parquet", "localize.json"),
    lambda table: table.localize,
    _training,
    lambda table, node: source_hash(localizers.__name__, node.localizer),
)
FIT = NodeKind(
    "fit",
    FitNode,
    ("adapter", "fit.json"),
    lambda table: table.fitted,
    _training,
    # of a fit that was made without the metric, and that a search chooses from by now; and how the metric is computed
    lambda table, node: [
        source_hash(methods.__name__, node.method),
        chosen := table.chooses_by_metric(node),
        *([dict(overrides)] if chosen and (overrides := _overrides(table, node)) else []),
    ],
)
SELECT_BEST = NodeKind(
    "select_best",
    TunedNode,
    FIT.files,
    lambda table: table.tuned,
    _settings,
    lambda table, node: source_hash(methods.__name__, node.method),
)
EVALUATE = NodeKind(
    "evaluate",
    EvalNode,
    ("samples.jsonl", "results.json"),
    lambda table: table.evaluations,
    _scoring,
    # of a custom task, whose file may have changed; and of a method that uses a custom scorer
    lambda table, node: [
        dict(_overrides(table, node)),
        source_hash(methods.__name__, node.fit.method),
    ],
)

KINDS = (FETCH, PREPARE, EFFECTS, PLANT, CAPTURE, LOCALIZE, FIT, SELECT_BEST, EVALUATE)
"""In an order in which every node comes after those that it reads from."""
