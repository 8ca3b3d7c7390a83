"""The plant node: damage some heads of a model, so that it is known which of them need changing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from lofit.errors import FitError
from lofit.files import read_json, write_json, write_jsonl
from lofit.models.damage import Damage, Planted
from lofit.models.meter import Meter, environment
from lofit.nodes.context import session_of
from lofit.nodes.effects import VISIBLE, greedy_texts
from lofit.nodes.limits import limited
from lofit.nodes.status import record_failure
from lofit.plan.kinds import EFFECTS
from lofit.plan.nodes import PlantNode
from lofit.plan.table import RunTable
from lofit.spec.hyperparameters import LossParams
from lofit.training.trainer import Validation


def run(table: RunTable, node: PlantNode, killed: str | None = None) -> None:
    """Draw the heads, and write their damage with training and validation rows in the form of a task.

    Heads are drawn among those whose damage alone is visible. The target of a row is the intact model's greedy text;
    ``contrast`` sets it against the damaged model's, which may be the same. ``plant.json`` holds the heads and the
    validation rows' loss with the intact and with the damaged model. If the node fails, the other files are empty.

    Args:
        table: the run table of the configuration.
        node: the node to run.
        killed: reason of the failure, for a node that was killed; nothing is planted.
    """
    folder = table.folder(node)
    damage = Damage((), torch.zeros(0), torch.zeros(0, 0))
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    with record_failure() as report, limited(table.config.limits, table.config.device):
        if killed:
            raise FitError(killed)
        if (found := EFFECTS.read_report(table, node.data))["status"] != "ok":
            raise FitError(f"the effects of single heads failed: {found['reason']}")
        source = table.folder(node.data)
        effects = pd.read_parquet(source / "effects.parquet")
        heads = draw(effects, node.k, node.draw)
        session = session_of(table, node)
        meter = Meter(session.model.device)
        validation = Validation(session, LossParams())
        forward = validation.forward(session.model)
        losses = {"intact": validation.loss(forward)}
        damage = Damage.load(source / "damage.safetensors").at(heads)
        Planted(session.model, damage)
        losses["damaged"] = validation.loss(forward)
        for split, kept in rows.items():
            given = getattr(session, split)
            wrong = greedy_texts(session, [row["prompt"] for row in given], node.data.tokens)
            for row, text in zip(given, wrong, strict=True):
                right = row["target"]
                contrast = {"prompt": row["prompt"], "right": [right], "wrong": [text or right]}
                kept.append(row | {"contrast": contrast})
        alone = effects.set_index(["layer", "head"])["effect"]
        report |= {"heads": heads, "effects": [float(alone[head]) for head in heads], "loss": losses}
        report |= {**meter.report(), **environment(session.model)}
    for split, kept in rows.items():
        write_jsonl(folder / f"{split}.jsonl", kept if report["status"] == "ok" else [])
    damage.save(folder / "damage.safetensors")
    write_json(folder / "run.json", node.identity)
    write_json(folder / "plant.json", report)


def draw(effects: pd.DataFrame, k: int, seed: int) -> list[tuple[int, int]]:
    """Draw ``k`` of the heads whose damage alone is visible, in the order of layers and heads.

    Raises:
        FitError: there are fewer.
    """
    visible = effects[effects["effect"] >= VISIBLE * effects["error"]]
    if len(visible) < k:
        raise FitError(
            f"the damage of {len(visible)} heads is visible, {k} are to be planted; plant fewer, damage them more, or "
            "take more rows"
        )
    places = np.sort(np.random.default_rng(seed).choice(len(visible), k, replace=False))
    return [(int(layer), int(head)) for layer, head in visible[["layer", "head"]].to_numpy()[places]]


def summary_line(folder: Path) -> str:
    """Return one line for the log: the planted heads, and the loss without and with their damage."""
    status = read_json(folder / "plant.json")
    if status["status"] != "ok":
        return f"failed: {status['reason']}"
    named = ", ".join(f"L{layer}H{head}" for layer, head in status["heads"])
    return f"{named}; validation loss {status['loss']['intact']:.3f} -> {status['loss']['damaged']:.3f}"
