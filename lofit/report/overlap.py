"""The overlap of head rankings across tasks, folds, seeds and localizers, compared with random heads."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lofit.files import atomic_path, read_json
from lofit.plan.nodes import LocalizeNode
from lofit.plan.ranking_pairs import comparable_pairs, setting
from lofit.plan.table import RunTable
from lofit.rankings.overlap import overlap_table
from lofit.rankings.ranking import read_ranking
from lofit.report.figures import span
from lofit.report.outputs import Output
from lofit.report.plain import write_plain_table
from lofit.report.style import figure_style, ink_on, save_figure
from lofit.report.tables import MISSING

LEGEND = (
    "Pairs of rankings of all heads of a model that differ in one thing alone: mean Jaccard index of their k best "
    "heads, what random heads would have, and mean Spearman correlation of the scores. Every pair is in the CSV. "
    f"{MISSING} nothing to compare: all scores of a ranking are equal, or a ranking failed (such pairs are not "
    "counted; the CSV says why)."
)


def overlap_pairs(table: RunTable) -> pd.DataFrame:
    """Return the overlap of rankings: one row per comparable pair and number of heads.

    Returns:
        ``model``, ``kind`` (in what the two rankings differ), ``task`` and ``other_task``, ``localizer`` and
        ``other_localizer``, the columns of :func:`lofit.rankings.overlap.overlap_table` (NaN if a ranking of the pair
        failed) and ``note`` (which failed and why; empty if none did).
    """
    counts = table.head_counts()
    reasons = {node.id: why_lost(table, node) for node in table.localize.values()}
    rankings = {node.id: read_ranking(table.folder(node) / "heads.parquet") for node in table.localize.values()}
    parts = []
    for kind, one, other in comparable_pairs(table):
        names = {"/".join(node.id.split("/")[1:]): node for node in (one, other)}
        where = {"model": one.model, "kind": kind, "task": one.data.task, "other_task": other.data.task}
        where |= {"localizer": setting(one), "other_localizer": setting(other)}
        lost = [f"{name} failed: {reasons[node.id]}" for name, node in names.items() if reasons[node.id]]
        found = overlap_table({name: rankings[node.id] for name, node in names.items()}, counts[one.model])
        parts.append(found.assign(**where, note="; ".join(lost)))
    if not parts:
        return pd.DataFrame(
            columns=[*_WHERE, "first", "second", "k", "jaccard", "expected_jaccard", "spearman", "note"]
        )
    frame = pd.concat(parts, ignore_index=True)
    return frame[[*_WHERE, *(name for name in frame.columns if name not in _WHERE)]]


def why_lost(table: RunTable, ranking: LocalizeNode) -> str:
    """Return why a ranking failed; an empty string if it did not."""
    folder = table.folder(ranking)
    if len(read_ranking(folder / "heads.parquet")):
        return ""
    return str(read_json(folder / "localize.json")["reason"])


def joined(notes: pd.Series) -> str:
    """Join the distinct non-empty texts of a column."""
    return "; ".join(dict.fromkeys(note for note in notes if note))


_WHERE = ["model", "kind", "task", "other_task", "localizer", "other_localizer"]


def write(table: RunTable, output: Output) -> None:
    """Write the table of all pairs, or draw the heat map of tasks."""
    frame, stem = overlap_pairs(table), table.config.results / output.id
    if output.kind == "figure":
        draw_overlap(overlap_matrix(frame), stem)
        return
    means = frame.groupby([*_WHERE, "k"], sort=False, dropna=False).agg(
        pairs=("jaccard", "count"),
        jaccard=("jaccard", "mean"),
        expected=("expected_jaccard", "mean"),
        spearman=("spearman", "mean"),
    )
    shown = means.reset_index()
    shown["task"] = _both(shown, "task")
    shown["localizer"] = _both(shown, "localizer")
    shown = shown.drop(columns=["other_task", "other_localizer"]).rename(columns={"kind": "differ in"})
    for name in ("jaccard", "expected", "spearman"):
        shown[name] = [MISSING if pd.isna(value) else f"{value:.2f}" for value in shown[name]]
    write_plain_table(frame, shown, stem, title=output.title, legend=LEGEND)


def _both(frame: pd.DataFrame, name: str) -> list[str]:
    pairs = zip(frame[name], frame[f"other_{name}"], strict=True)
    return [one if one == other else f"{one} / {other}" for one, other in pairs]


def overlap_matrix(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the mean Jaccard index between the rankings of two tasks; for one task, between its folds and seeds.

    Rows are made for each model and localizer with several tasks, at the largest k that is not all heads.

    Args:
        pairs: as :func:`overlap_pairs` returns them.

    Returns:
        ``model``, ``localizer``, ``k``, ``task``, ``other_task`` (both orders), ``jaccard``, ``expected`` (for random
        heads), ``pairs`` and ``rankings`` (numbers of pairs and rankings behind the mean), and ``note`` (which failed
        and why). If all rankings failed, these numbers are 0 and the indices NaN.
    """
    frame = pairs[(pairs["localizer"] == pairs["other_localizer"]) & (pairs["kind"] != "localizers")]
    chance = frame.groupby(["model", "k"])["expected_jaccard"].transform("max")  # a failed ranking has none
    some = ~(chance > 1 - 1e-9)  # with all heads selected, any two rankings agree
    frame = frame[some | ~some.groupby(frame["model"]).transform("any")]
    frame = frame[frame["k"] == frame.groupby("model")["k"].transform("max")]
    several = frame[frame["kind"] == "tasks"].groupby(["model", "localizer"]).size().index
    frame = frame[frame.set_index(["model", "localizer"]).index.isin(several)]
    swapped = frame[frame["kind"] == "tasks"].rename(columns={"task": "other_task", "other_task": "task"})
    keys = ["model", "localizer", "k", "task", "other_task"]
    both = pd.concat([frame, swapped])
    matrix = both.groupby(keys, sort=False).agg(
        jaccard=("jaccard", "mean"),
        expected=("expected_jaccard", "mean"),
        pairs=("jaccard", "count"),
        note=("note", joined),
    )
    used = both.dropna(subset=["jaccard"]).melt(keys, ["first", "second"]).groupby(keys)["value"].nunique()
    matrix.insert(3, "rankings", used.reindex(matrix.index, fill_value=0))
    return matrix.reset_index()


def draw_overlap(matrix: pd.DataFrame, stem: Path) -> list[Path]:
    """Draw one heat map per model and localizer, as ``<stem>.pdf``, ``.png`` and ``.csv``.

    Cells without a value are hatched, and marked "failed" if rankings failed.

    Args:
        matrix: as :func:`overlap_matrix` returns it.
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
                    known = cell is not None and cell["pairs"] > 0
                    face: Any = colours(norm(cell["jaccard"])) if cell and known else "white"
                    hatch = None if known else "///"
                    corner = (column - 0.5, row - 0.5)
                    axes.add_patch(Rectangle(corner, 1, 1, facecolor=face, edgecolor="0.72", hatch=hatch))
                    if cell:
                        text, ink = (f"{cell['jaccard']:.2f}", ink_on(face)) if known else ("failed", "black")
                        box = None if known else {"facecolor": face, "edgecolor": "none", "pad": 1.0}
                        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8, bbox=box)
            axes.set_xlim(-0.5, len(tasks) - 0.5)
            axes.set_ylim(len(tasks) - 0.5, -0.5)
            axes.set_aspect("equal")
            axes.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(tasks)), tasks)
            axes.tick_params(length=0)
            chance = panel["expected"].max()
            random = f", random heads {chance:.2f}" if pd.notna(chance) else ""
            axes.set_title(f"{model}, {localizer}\nK = {panel['k'].iloc[0]}{random}")
        caption = (
            "Mean Jaccard index of the K best heads of two rankings; on the diagonal of one task, over folds and seeds."
        )
        counted = matrix[matrix["pairs"] > 0]
        if len(counted):
            caption += f" n = {span(counted['pairs'], 'pair')} of {span(counted['rankings'], 'ranking')} per cell."
        caption += " Hatched: nothing to compare."
        if matrix["note"].any():
            caption += " Some rankings failed: the CSV says which and why."
        figure.supxlabel(textwrap.fill(caption, int(figure.get_figwidth() * 15)), x=0.01, ha="left")
        paths = save_figure(figure, stem)
    table = stem.parent / f"{stem.name}.csv"
    with atomic_path(table) as part:
        matrix.to_csv(part, index=False)
    return [*paths, table]
