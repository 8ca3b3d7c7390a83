"""The capture node: store the activations of heads and layers at the last token of right and wrong answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lofit.activations.last_token import capture, contrast_texts
from lofit.activations.store import TEXT_COLUMNS
from lofit.errors import FitError
from lofit.files import atomic_path, read_json, write_json
from lofit.models.meter import environment
from lofit.nodes.context import session_of
from lofit.nodes.limits import limited
from lofit.nodes.status import record_failure
from lofit.plan.nodes import ActivationsNode
from lofit.plan.table import RunTable


def run(table: RunTable, node: ActivationsNode, killed: str | None = None) -> None:
    """Write ``texts.parquet``, ``heads.npy``, ``blocks.npy``, ``activations.json`` and ``run.json``.

    Only training and validation questions are used. If the node fails, the arrays are empty and ``activations.json``
    holds the reason.

    Args:
        table: the run table of the configuration.
        node: the node to run.
        killed: reason of the failure, for a node that was killed; the model is then not run.
    """
    folder = table.folder(node)
    texts = pd.DataFrame(columns=list(TEXT_COLUMNS))
    with atomic_path(folder / "heads.npy") as heads, atomic_path(folder / "blocks.npy") as blocks:
        with record_failure() as report, limited(table.config.limits, table.config.device):
            if killed:
                raise FitError(killed)
            session = session_of(table, node)
            texts = contrast_texts({"train": session.train, "validation": session.validation})
            report |= capture(session, texts, heads, blocks)
            report |= environment(session.model)
        if report["status"] != "ok":
            for path in (heads, blocks):
                np.save(path, np.zeros(0, dtype=np.float32))
    with atomic_path(folder / "texts.parquet") as part:
        texts[list(TEXT_COLUMNS)].to_parquet(part, index=False)
    write_json(folder / "run.json", node.identity)
    write_json(folder / "activations.json", report)


def summary_line(folder: Path) -> str:
    """Return one line for the log: numbers of texts and tokens, and seconds."""
    status = read_json(folder / "activations.json")
    if status["status"] != "ok":
        return f"failed: {status['reason']}"
    return f"{status['n_texts']} texts, {status['n_tokens']} tokens; {status['seconds']:.0f} s"
