"""How alike the rankings of heads are: across tasks, folds, seeds and localizers, against random heads."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lofit.files import atomic_path
from lofit.localize.overlap import overlap_table
from lofit.localize.pairs import comparable_pairs, compares_tasks, setting
from lofit.localize.ranking import read_ranking
from lofit.report.plain import write_plain_table
from lofit.report.style import figure_style, ink_on, save_figure
from lofit.runs import RunTable

LEGEND = (
    "Pairs of rankings of all heads of a model that differ in one thing alone: mean Jaccard index of their k best "
    "heads, what random heads would have, and mean Spearman correlation of the scores. Every pair is in the CSV."
)


def overlap_pairs(table: RunTable) -> pd.DataFrame:
    """One row per comparable pair and number of heads.

    Returns:
        ``model``, ``kind`` (in what they differ), ``task`` and ``other_task``, ``localizer`` and ``other_localizer``,
        then as :func:`lofit.localize.overlap.overlap_table`. A ranking that failed has no pairs.
    """
    counts = table.head_counts()
    rankings = {node.id: read_ranking(table.localize_dir(node) / "heads.parquet") for node in table.localize.values()}
    parts = []
    for kind, one, other in comparable_pairs(table):
        found = {"/".join(node.id.split("/")[1:]): rankings[node.id] for node in (one, other)}
        if all(map(len, found.values())):
            where = {"model": one.model, "kind": kind, "task": one.data.task, "other_task": other.data.task}
            where |= {"localizer": setting(one), "other_localizer": setting(other)}
            parts.append(overlap_table(found, counts[one.model]).assign(**where))
    if not parts:
        return pd.DataFrame(columns=[*_WHERE, "first", "second", "k", "jaccard", "expected_jaccard", "spearman"])
    frame = pd.concat(parts, ignore_index=True)
    return frame[[*_WHERE, *(name for name in frame.columns if name not in _WHERE)]]


_WHERE = ["model", "kind", "task", "other_task", "localizer", "other_localizer"]


def write_overlap(table: RunTable) -> None:
    """Write tables/overlap.{csv,md,tex}, and figures/overlap.{pdf,png,csv} where there are several tasks."""
    frame, results = overlap_pairs(table), table.config.results
    means = frame.groupby([*_WHERE, "k"], sort=False, dropna=False).agg(
        pairs=("jaccard", "size"),
        jaccard=("jaccard", "mean"),
        expected=("expected_jaccard", "mean"),
        spearman=("spearman", "mean"),
    )
    shown = means.reset_index()
    shown["task"] = _both(shown, "task")
    shown["localizer"] = _both(shown, "localizer")
    shown = shown.drop(columns=["other_task", "other_localizer"]).rename(columns={"kind": "differ in"})
    for name in ("jaccard", "expected", "spearman"):
        shown[name] = shown[name].map("{:.2f}".format)
    write_plain_table(frame, shown, results / "tables" / "overlap", title="Overlap of head rankings", legend=LEGEND)
    if compares_tasks(table):
        draw_overlap(overlap_matrix(frame), results / "figures" / "overlap")


def _both(frame: pd.DataFrame, name: str) -> list[str]:
    pairs = zip(frame[name], frame[f"other_{name}"], strict=True)
    return [one if one == other else f"{one} / {other}" for one, other in pairs]


def overlap_matrix(pairs: pd.DataFrame) -> pd.DataFrame:
    """Mean Jaccard index of rankings for two tasks, and for one task over folds and seeds.

    Args:
        pairs: as :func:`overlap_pairs` gives them.

    Returns:
        ``model``, ``localizer``, ``k``, ``task``, ``other_task`` (both orders), ``jaccard``, ``expected`` (of random
        heads) and ``pairs``; of each model and localizer with several tasks, at the largest k.
    """
    frame = pairs[(pairs["localizer"] == pairs["other_localizer"]) & (pairs["kind"] != "localizers")]
    frame = frame[frame["k"] == frame.groupby("model")["k"].transform("max")]
    several = frame[frame["kind"] == "tasks"].groupby(["model", "localizer"]).size().index
    frame = frame[frame.set_index(["model", "localizer"]).index.isin(several)]
    swapped = frame[frame["kind"] == "tasks"].rename(columns={"task": "other_task", "other_task": "task"})
    keys = ["model", "localizer", "k", "task", "other_task"]
    return (
        pd.concat([frame, swapped])
        .groupby(keys, sort=False)
        .agg(jaccard=("jaccard", "mean"), expected=("expected_jaccard", "mean"), pairs=("jaccard", "size"))
        .reset_index()
    )


def draw_overlap(matrix: pd.DataFrame, stem: Path) -> list[Path]:
    """Draw a heat map per model and localizer, as ``<stem>.pdf``, ``.png`` and ``.csv``.

    Args:
        matrix: as :func:`overlap_matrix` gives it.
        stem: path without suffix.

    Returns:
        The three paths.
    """
    panels = list(matrix.groupby(["model", "localizer"], sort=False))
    tasks = list(dict.fromkeys([*matrix["task"], *matrix["other_task"]]))
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    side = max(2.2, 0.62 * len(tasks))
    colours, norm = matplotlib.colormaps["Blues"], Normalize(0, 1)
    with figure_style():
        figure = Figure(figsize=(across * (side + 1.1) + 0.6, down * (side + 1.2) + 0.9), layout="constrained")
        grid = list(figure.subplots(down, across, squeeze=False).flat)
        for axes in grid[len(panels) :]:
            axes.remove()
        for axes, ((model, localizer), panel) in zip(grid, panels, strict=False):
            cells = {(cell["task"], cell["other_task"]): cell for cell in panel.to_dict("records")}
            for row, task in enumerate(tasks):
                for column, other in enumerate(tasks):
                    cell = cells.get((task, other))
                    face: Any = colours(norm(cell["jaccard"])) if cell else "white"
                    hatch = None if cell else "///"
                    corner = (column - 0.5, row - 0.5)
                    axes.add_patch(Rectangle(corner, 1, 1, facecolor=face, edgecolor="0.72", hatch=hatch))
                    if cell:
                        text = f"{cell['jaccard']:.2f}"
                        axes.text(column, row, text, ha="center", va="center", color=ink_on(face), fontsize=8)
            axes.set_xlim(-0.5, len(tasks) - 0.5)
            axes.set_ylim(len(tasks) - 0.5, -0.5)
            axes.set_aspect("equal")
            axes.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(tasks)), tasks)
            axes.tick_params(length=0)
            chance = panel["expected"].iloc[0]
            axes.set_title(f"{model}, {localizer}\nK = {panel['k'].iloc[0]}, random heads {chance:.2f}")
        caption = (
            "Mean Jaccard index of the K best heads of two rankings; on the diagonal of one task, over folds and "
            f"seeds. n = {_span(matrix['pairs'])} of rankings per cell; hatched: none to compare."
        )
        figure.supxlabel(textwrap.fill(caption, int(figure.get_figwidth() * 15)), x=0.01, ha="left")
        paths = save_figure(figure, stem)
    table = stem.parent / f"{stem.name}.csv"
    with atomic_path(table) as part:
        matrix.to_csv(part, index=False)
    return [*paths, table]


def _span(pairs: pd.Series) -> str:
    low, high = int(pairs.min()), int(pairs.max())
    return f"{low if low == high else f'{low} to {high}'} pair{'' if high == 1 else 's'}"
