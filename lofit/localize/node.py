"""The localize node: rank the heads of one model on one split."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lofit import tasks
from lofit.errors import FitError
from lofit.files import read_json, write_json
from lofit.fit.cost import environment
from lofit.fit.session import open_session
from lofit.localize import load_localizer
from lofit.localize.ranking import rank_heads, top_heads, write_ranking
from lofit.runs import LocalizeNode, RunTable


def run(table: RunTable, node: LocalizeNode) -> None:
    """Write ``heads.parquet``, ``localize.json`` and ``run.json``.

    A localization that fails for its own reason leaves an empty ranking and a status that says why.
    """
    config, folder = table.config, table.localize_dir(node)
    localizer = load_localizer(node.localizer)
    session = open_session(
        table.model_dir(node.model),
        table.data_dir(node.data),
        tasks.load_task(node.data.task).objective,
        seed=node.data.seed,
        device=config.device,
        dtype=node.dtype,
        progress=config.progress,
    )
    status = {"status": "ok", "reason": None, **environment(session.model.device)}
    try:
        scores = localizer.score(session, localizer.Params.model_validate(node.params))
        ranking = rank_heads(scores.values)
        status |= scores.record
    except FitError as error:
        ranking = rank_heads(np.zeros((0, 1)))
        status |= {"status": "failed", "reason": str(error)}
    write_json(folder / "run.json", node.identity)
    write_json(folder / "localize.json", status)
    write_ranking(ranking, folder / "heads.parquet")


def summary_line(folder: Path) -> str:
    """One line for the log: where the best heads are."""
    status = read_json(folder / "localize.json")
    if status["status"] != "ok":
        return f"failed: {status['reason']}"
    best = ", ".join(f"L{layer}H{head}" for layer, head in top_heads(folder / "heads.parquet", 5))
    return f"best heads {best}; {status['seconds']:.0f} s"
