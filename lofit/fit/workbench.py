"""What a localizer or a method works with; each part is loaded when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lofit.errors import FitError
from lofit.files import need, read_json
from lofit.runs import ActivationsNode, FitNode, LocalizeNode, RunTable

if TYPE_CHECKING:
    from lofit.activations.store import Activations
    from lofit.fit.session import Session
    from lofit.interventions import Head


@dataclass
class Workbench:
    """The inputs of one localize or fit node.

    Attributes:
        title: what progress bars say.
        name: model, task and fold, such as ``llama-2-7b/truthfulqa/fold1``.
        seed: seed of everything random in the node.
        n_layers, n_heads: shape of the model.
        k: numbers of heads: one, or those a method may choose from; empty for a method without heads.
        load_session: opens the model, its tokenizer and the rows.
        activations_dir: folder of the activations node, for those that use it.
        ranking_dir: folder of the localize node, for methods with heads.
    """

    title: str
    name: str
    seed: int
    n_layers: int
    n_heads: int
    load_session: Callable[[], Session]
    k: tuple[int, ...] = ()
    activations_dir: Path | None = None
    ranking_dir: Path | None = None

    @cached_property
    def session(self) -> Session:
        """The loaded model with its data."""
        return self.load_session()

    @cached_property
    def activations(self) -> Activations:
        """Last-token activations of the training and validation questions' answers.

        Raises:
            FitError: computing them failed.
        """
        from lofit.activations.store import read_activations

        assert self.activations_dir is not None, f"{self.title} does not declare that it uses activations"
        need(
            self.activations_dir / "activations.json", f"activations --run {'/'.join(self.activations_dir.parts[-4:])}"
        )
        return read_activations(self.activations_dir)

    def heads(self, k: int) -> list[Head]:
        """The ``k`` best heads of the ranking, best first.

        Raises:
            FitError: ranking them failed.
        """
        from lofit.localize.ranking import top_heads

        assert self.ranking_dir is not None, f"{self.title} does not declare that it uses heads"
        node_id = "/".join(self.ranking_dir.parts[-5:])
        status = read_json(need(self.ranking_dir / "localize.json", f"localize --run {node_id}"))
        if status["status"] != "ok":
            raise FitError(f"localization failed: {status['reason']}")
        return top_heads(self.ranking_dir / "heads.parquet", k)


def save_point_file(table: RunTable, node: LocalizeNode | FitNode) -> Path:
    """Where the training of a node is saved until its results are written."""
    folder = table.run_dir(node) if isinstance(node, FitNode) else table.localize_dir(node)
    return folder / "savepoint.safetensors"


def session_of(table: RunTable, node: ActivationsNode | LocalizeNode | FitNode) -> Session:
    """The loaded model, tokenizer and rows of a node."""
    from lofit.fit.session import open_session

    objective = table.config.task(node.data.task).objective
    assert objective, f"{node.data.task} is for evaluation only"
    return open_session(
        table.model_dir(node.model),
        table.data_dir(node.data),
        objective,
        seed=node.own_seed,
        device=table.config.device,
        dtype=node.dtype,
        progress=table.config.progress,
        compute=table.config.training,
        save_to=None if isinstance(node, ActivationsNode) else save_point_file(table, node),
    )


def open_workbench(table: RunTable, node: LocalizeNode | FitNode, title: str) -> Workbench:
    """What the node's localizer or method works with."""
    entry, activations = table.config.model_entry(node.model), table.activations_of(node)
    ranking = node.heads_from if isinstance(node, FitNode) else None
    return Workbench(
        title=title,
        name=f"{node.model}/{node.data.task}/fold{node.data.fold}",
        seed=node.own_seed,
        n_layers=entry.n_layers,
        n_heads=entry.n_heads,
        load_session=lambda: session_of(table, node),
        k=node.k if isinstance(node, FitNode) else (),
        activations_dir=table.activations_dir(activations) if activations else None,
        ranking_dir=table.localize_dir(ranking) if ranking else None,
    )
