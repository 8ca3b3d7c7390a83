"""What localizers find of planted heads, and how far the damage is undone on the heads that they name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lofit.plan.kinds import FIT, PLANT
from lofit.plan.nodes import PlantedRun
from lofit.plan.table import RunTable
from lofit.rankings.ranking import read_ranking
from lofit.rankings.recall import normalised_area, recall_curve
from lofit.report.figures import draw_recall
from lofit.report.outputs import Output
from lofit.report.overlap import joined, why_lost
from lofit.report.plain import write_plain_table
from lofit.report.tables import MISSING
from lofit.stats import seed_interval

SETTING = ["model", "task", "damage", "targets", "n_train", "k"]
ORACLE, RANDOM, TRUTH = "oracle", "random", "planted"
"""Arms with which others are compared."""
_RECALL_LEGEND = (
    "k heads of the model were damaged, drawn among those whose damage alone raises the loss by three standard "
    "errors. Recall: share of them among the k heads that are ranked first; chance: that of random heads. "
    "Area: under the curve of recall against the number of heads, 0 for random heads and 1 for the oracle, "
    "which restores each head exactly and measures the loss. Means over draws of the damaged heads, with 95% "
    "t-intervals over draws."
)
_LOSS_LEGEND = (
    "Loss on held-out rows, in nats per answer token, of the damaged model before and after the method was "
    "fitted on as many heads as were damaged. Dense: KL from the intact model; sparse: -log p of its greedy "
    "text. Undone: share of the rise that the damage caused which the fit took away; 100% is the intact model. "
    "Over random: the same less that of random heads of the same draw, in percentage points. Means over draws of the "
    "damaged heads, with 95% t-intervals over draws, none where all are equal. The rows are those of validation, on "
    "which `keep: best` would choose the epoch. Draws with a loss are counted; the CSV has the number for each value."
)


def curves(table: RunTable, name: str) -> pd.DataFrame:
    """Return the recall of every ranking: one row per run and number of heads.

    Returns:
        :data:`SETTING`, ``draw``, ``arm``, ``n`` (number of heads), ``recall`` (fraction), ``chance``, ``area`` (of the
        whole curve, normalised) and ``note``; one row without numbers for a run that failed.
    """
    records: list[dict[str, Any]] = []
    found: dict[str, np.ndarray] = {}
    runs = [run for run in table.planted[name] if not run.bottom]  # whose ranking is another arm's
    for run in runs:
        if not _why_lost(table, run):
            planted = [(layer, head) for layer, head in PLANT.read_report(table, run.plant)["heads"]]
            ranking = read_ranking(table.folder(run.ranking) / "heads.parquet")
            found[run.ranking.id] = recall_curve(ranking, planted)
    ceilings = {run.plant.id: run.ranking.id for run in runs if run.label == ORACLE}
    for run in runs:
        curve, ceiling = found.get(run.ranking.id), found.get(ceilings.get(run.plant.id, ""))
        if curve is None:
            records.append(_where(run) | {"note": f"draw {run.plant.draw}: {_why_lost(table, run)}"})
            continue
        area = normalised_area(curve, ceiling) if ceiling is not None else np.nan
        for n, recall in enumerate(curve, start=1):
            told = {"n": n, "recall": recall, "chance": n / len(curve), "area": area, "note": ""}
            records.append(_where(run) | told)
    return pd.DataFrame(records, columns=[*SETTING, "draw", "arm", "n", "recall", "chance", "area", "note"])


def losses(table: RunTable, name: str) -> pd.DataFrame:
    """Return the validation losses of every fit: one row per run.

    Returns:
        :data:`SETTING`, ``draw``, ``arm``, ``before``, ``after``, ``undone`` (fraction), ``over_random`` (difference to
        the fraction of random heads of the same draw; NaN without them) and ``note``.
    """
    records = []
    for run in table.planted[name]:
        if not run.fit:
            continue
        report, planted = FIT.read_report(table, run.fit), PLANT.read_report(table, run.plant)
        if report["status"] != "ok":
            records.append(_where(run) | {"note": f"draw {run.plant.draw}: {report['reason']}"})
            continue
        before, after = report["validation_loss"][0], report["validation_loss"][report.get("kept_epoch", -1)]
        goal = 0.0 if run.plant.targets == "dense" else planted["loss"]["intact"]
        undone = (before - after) / (before - goal) if before > goal else np.nan
        records.append(_where(run) | {"before": before, "after": after, "undone": undone, "note": ""})
    return over_random(pd.DataFrame(records, columns=[*SETTING, "draw", "arm", "before", "after", "undone", "note"]))


def over_random(frame: pd.DataFrame) -> pd.DataFrame:
    """Add ``over_random`` to :func:`losses`: what an arm undid less what random heads of the same draw did."""
    place = [*SETTING, "draw"]
    random = frame.loc[frame["arm"] == RANDOM, [*place, "undone"]].rename(columns={"undone": "by_chance"})
    frame = frame.merge(random, on=place, how="left")
    difference = (frame["undone"] - frame["by_chance"]).where(frame["arm"] != RANDOM)
    return frame.assign(over_random=difference).drop(columns="by_chance")


def _why_lost(table: RunTable, run: PlantedRun) -> str:
    """Return why no heads were planted or ranked; an empty string if they were."""
    return str(PLANT.read_report(table, run.plant)["reason"] or why_lost(table, run.ranking))


def _where(run: PlantedRun) -> dict[str, Any]:
    plant = run.plant
    damage, n_train = plant.data.damage.label, plant.options["n_train"]
    setting = (plant.model, plant.task, damage, plant.targets, n_train, plant.k)
    return {**dict(zip(SETTING, setting, strict=True)), "draw": plant.draw, "arm": run.label}


def averaged(frame: pd.DataFrame, by: list[str], values: list[str]) -> pd.DataFrame:
    """Return the means over draws with their t-intervals: ``<value>``, ``<value>_low``, ``<value>_high``, ``draws``.

    ``draws`` counts those with the first value, ``<value>_draws`` those with another, which a draw may lack. Bounds of
    a recall end at 0 and 1.
    """
    records = []
    for key, group in frame.groupby(by, sort=False):
        record: dict[str, Any] = dict(zip(by, key, strict=True)) | {"draws": int(group[values[0]].notna().sum())}
        for value in values:
            known = group[value].dropna().tolist()
            interval = seed_interval(known)
            record |= {value: interval.mean, f"{value}_low": interval.low, f"{value}_high": interval.high}
            record[f"{value}_draws"] = len(known)
        records.append(record | {"note": joined(group["note"])})
    bounds = [f"{value}{end}" for value in values for end in ("", "_low", "_high", "_draws")]
    means = pd.DataFrame(records, columns=[*by, "draws", *bounds, "note"])
    recall = means.columns.intersection(["recall_low", "recall_high"])
    means[recall] = means[recall].clip(0, 1)
    return means


def write(table: RunTable, output: Output) -> None:
    """Write the table of recall or of losses, or draw the curves of recall."""
    stem = table.drawn / output.id
    name = output.name.removesuffix("_loss") if output.name not in table.planted else output.name
    if name != output.name:
        frame = averaged(losses(table, name), [*SETTING, "arm"], ["before", "after", "undone", "over_random"])
        shown = {
            "before": _text(frame, "before"),
            "after": _text(frame, "after"),
            "undone": _text(frame, "undone", 100),
            "over random": _text(frame, "over_random", 100),
        }
        legend = _LOSS_LEGEND
    else:
        every = curves(table, name)
        if output.kind == "figure":
            ranked = every[every["n"].notna() & ~every["arm"].isin([TRUTH, RANDOM])]  # these need no line
            means = averaged(ranked, [*SETTING, "arm", "n"], ["recall", "chance"])
            draw_recall(means, stem, title=output.title, setting=SETTING)
            return
        at_k = every[every["n"].isna() | (every["n"] == every["k"])]
        frame = averaged(at_k, [*SETTING, "arm"], ["recall", "area", "chance"])
        shown = {"recall": _text(frame, "recall", 100), "area": _text(frame, "area")}
        shown["chance"] = [_number(value, 100) for value in frame["chance"]]
        legend = _RECALL_LEGEND
    text = frame[[*SETTING, "arm"]].assign(**shown, draws=frame["draws"])
    if frame["note"].any():
        text["note"] = frame["note"]
    write_plain_table(frame, text, stem, title=output.title, legend=legend)


def _text(frame: pd.DataFrame, value: str, scale: int = 1) -> list[str]:
    bounds = zip(frame[value], frame[f"{value}_low"], frame[f"{value}_high"], strict=True)
    return [
        _number(mean, scale) + (f" [{_number(low, scale)}, {_number(high, scale)}]" if pd.notna(low) else "")
        for mean, low, high in bounds
    ]


def _number(value: float, scale: int) -> str:
    if pd.isna(value):
        return MISSING
    return f"{scale * value:.0f}%" if scale == 100 else f"{value:.3f}"
