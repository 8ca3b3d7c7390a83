"""The inputs of a localizer or method, each of them loaded on first use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from lofit.activations.store import Activations, read_activations
from lofit.errors import FitError
from lofit.files import read_json, require
from lofit.interventions import Head
from lofit.models.session import Metric, Session
from lofit.rankings.ranking import top_heads


@dataclass
class FitContext:
    """The inputs of one localize or fit node.

    Attributes:
        title: title of progress bars.
        name: model, task and fold, such as ``llama-2-7b/truthfulqa/fold1``.
        seed: seed of everything random in the node.
        n_layers, n_heads: shape of the model.
        k: numbers of heads to edit: one, or those that a method chooses from; empty for a method without heads.
        bottom: whether the heads that are ranked last are edited, instead of the first.
        select_by: what decides between the settings that a method chooses from on validation.
        load_session: opens the model, its tokenizer and the rows.
        activations_dir: folder of the capture node, for localizers and methods that use activations.
        ranking_dir: folder of the localize node, for methods that edit selected heads.
        metric: for the session, as in :class:`lofit.models.session.Session`.
    """

    title: str
    name: str
    seed: int
    n_layers: int
    n_heads: int
    load_session: Callable[[], Session]
    k: tuple[int, ...] = ()
    bottom: bool = False
    select_by: Literal["metric", "loss"] | None = None
    activations_dir: Path | None = None
    ranking_dir: Path | None = None
    metric: Metric | None = None

    @cached_property
    def session(self) -> Session:
        """The loaded model with its data."""
        opened = self.load_session()
        opened.metric = self.metric
        return opened

    @cached_property
    def activations(self) -> Activations:
        """Last-token activations of the training and validation questions' answers.

        Raises:
            FitError: the capture node failed.
        """
        assert self.activations_dir is not None, f"{self.title} does not declare that it uses activations"
        require(self.activations_dir / "activations.json", f"node capture {'/'.join(self.activations_dir.parts[-4:])}")
        return read_activations(self.activations_dir)

    def heads(self, k: int) -> list[Head]:
        """Return the ``k`` best heads of the ranking, best first; the worst, worst first, if they are to be edited.

        Raises:
            FitError: the localize node failed, or ranked fewer heads.
        """
        assert self.ranking_dir is not None, f"{self.title} does not declare that it uses heads"
        node_id = "/".join(self.ranking_dir.parts[-5:])
        status = read_json(require(self.ranking_dir / "localize.json", f"node localize {node_id}"))
        if status["status"] != "ok":
            raise FitError(f"localization failed: {status['reason']}")
        return top_heads(self.ranking_dir / "heads.parquet", k, bottom=self.bottom)
