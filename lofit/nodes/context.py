"""Open the inputs of a node: the model, the rows of its task, and the activations and head ranking that it uses."""

from __future__ import annotations

from pathlib import Path

from lofit.errors import FitError
from lofit.files import short_hash
from lofit.models.damage import Damage, Planted
from lofit.models.session import Metric, ObjectiveName, Session, open_session
from lofit.plan.kinds import PLANT, kind_of
from lofit.plan.nodes import ActivationsNode, EffectsNode, FitNode, LocalizeNode, PlantNode
from lofit.plan.table import RunTable
from lofit.training.context import FitContext


def save_point_file(table: RunTable, node: LocalizeNode | FitNode, folder: Path) -> Path:
    """Return where training is saved in a folder; code of a method or localizer that was edited starts anew."""
    return folder / f"savepoint-{short_hash(kind_of(node).triggers(table, node))}.safetensors"


def remove_save_points(folder: Path) -> None:
    """Remove the save points of a node whose results are written."""
    for file in folder.glob("savepoint-*.safetensors"):
        file.unlink()


def session_of(
    table: RunTable,
    node: ActivationsNode | EffectsNode | PlantNode | LocalizeNode | FitNode,
    save_to: Path | None = None,
) -> Session:
    """Load the model, the tokenizer and the rows of a node; where heads are planted, the model is damaged there.

    Args:
        table: the run table of the configuration.
        node: the node.
        save_to: file in which training is saved.

    Raises:
        FitError: planting heads failed.
    """
    objective: ObjectiveName | None = table.config.task(node.data.task).objective
    assert objective, f"{node.data.task} is for evaluation only"
    planted = isinstance(node.data, PlantNode)
    if isinstance(node.data, PlantNode):
        objective = "kl" if node.data.targets == "dense" else "sft"
        if (report := PLANT.read_report(table, node.data))["status"] != "ok":
            raise FitError(f"planting heads failed: {report['reason']}")
    elif isinstance(node.data, EffectsNode):
        objective = "sft"
    session = open_session(
        table.model_dir(node.model),
        table.folder(node.data),
        objective,
        seed=node.own_seed,
        device=table.config.device,
        dtype=node.dtype,
        progress=table.config.progress,
        compute=table.config.training,
        save_to=save_to,
        chat=node.data.chat,
    )
    if planted:
        session.planted = Planted(session.model, Damage.load(table.folder(node.data) / "damage.safetensors"))
    return session


def open_context(
    table: RunTable, node: LocalizeNode | FitNode, title: str, folder: Path, metric: Metric | None = None
) -> FitContext:
    """Return the :class:`FitContext` of a node, which its localizer or method gets; the model is not loaded yet.

    Args:
        table: the run table of the configuration.
        node: the node.
        title: for progress bars.
        folder: where training is saved.
        metric: the headline metric on the validation rows, if it is to be computed.
    """
    entry, activations = table.config.model_entry(node.model), table.activations_of(node)
    ranking = node.ranking if isinstance(node, FitNode) else None
    return FitContext(
        title=title,
        name=f"{node.model}/{node.data.task}/fold{node.data.fold}",
        seed=node.own_seed,
        n_layers=entry.n_layers,
        n_heads=entry.n_heads,
        load_session=lambda: session_of(table, node, save_point_file(table, node, folder)),
        k=node.k if isinstance(node, FitNode) else (),
        bottom=isinstance(node, FitNode) and node.bottom,
        select_by=node.select_by if isinstance(node, FitNode) else None,
        activations_dir=table.folder(activations) if activations else None,
        ranking_dir=table.folder(ranking) if ranking else None,
        metric=metric,
    )
