"""How alike head rankings of tasks, folds, seeds and localizers are, compared with random heads (LoFiT, Figure 6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lofit.files import read_json
from lofit.plan.nodes import LocalizeNode
from lofit.plan.ranking_pairs import comparable_pairs, setting
from lofit.plan.table import RunTable
from lofit.rankings.overlap import COLUMNS, DRAWS, overlap_table
from lofit.rankings.ranking import read_ranking
from lofit.report.figures import save_with_csv, span
from lofit.report.outputs import Output
from lofit.report.plain import write_plain_table
from lofit.report.style import figure_style, ink_on, set_caption, set_title
from lofit.report.tables import MISSING

_MEASURES = ("overlap", "jaccard", "emd")
_WHERE = ["model", "kind", "task", "other_task", "localizer", "other_localizer"]
_PANELS = {"overlap": ("overlap", "Blues"), "emd": ("earth mover's distance (layers)", "Oranges")}
"""Measures that the heat map shows, with title and colours."""
LEGEND = (
    "Pairs of rankings of all heads of a model that differ in one thing alone. Means over pairs of their k best heads: "
    "overlap (heads in common, divided by k; the LoFiT paper calls this Jaccard), Jaccard index (heads in common, "
    "divided by heads in either) and EMD (earth mover's distance between the layers of the heads, in layers); in "
    f"brackets the same of random heads (EMD: mean of {DRAWS:,} random pairs). Spearman: of the scores of all heads. "
    f"Every pair is in the CSV. {MISSING} nothing to compare: all scores of a ranking are equal, or a ranking failed "
    "(such pairs are not counted; the CSV says why)."
)


def overlap_pairs(table: RunTable) -> pd.DataFrame:
    """Return the overlap of rankings: one row per comparable pair and number of heads.

    Returns:
        ``model``, ``kind`` (in what the two rankings differ), ``task`` and ``other_task``, ``localizer`` and
        ``other_localizer``, the columns of :func:`lofit.rankings.overlap.overlap_table` (NaN if a ranking of the pair
        failed) and ``note`` (which failed and why; empty if none did).
    """
    counts = table.head_counts()
    nodes = table.head_rankings.values()
    reasons = {node.id: why_lost(table, node) for node in nodes}
    rankings = {node.id: read_ranking(table.folder(node) / "heads.parquet") for node in nodes}
    parts = []
    for kind, one, other in comparable_pairs(table):
        names = {"/".join(node.id.split("/")[1:]): node for node in (one, other)}
        where = {"model": one.model, "kind": kind, "task": one.data.task, "other_task": other.data.task}
        where |= {"localizer": setting(table, one), "other_localizer": setting(table, other)}
        lost = [f"{name} failed: {reasons[node.id]}" for name, node in names.items() if reasons[node.id]]
        found = overlap_table({name: rankings[node.id] for name, node in names.items()}, counts[one.model])
        parts.append(found.assign(**where, note="; ".join(lost)))
    if not parts:
        return pd.DataFrame(columns=[*_WHERE, *COLUMNS, "note"])
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


def write(table: RunTable, output: Output) -> None:
    """Write the table of all pairs, or draw the heat map of tasks."""
    frame, stem = overlap_pairs(table), table.drawn / output.id
    if output.kind == "figure":
        draw_overlap(overlap_matrix(frame), stem, title=output.title)
        return
    shown = frame.groupby([*_WHERE, "k"], sort=False, dropna=False).agg(
        pairs=("overlap", "count"),
        **{name: (name, "mean") for measure in _MEASURES for name in (measure, f"expected_{measure}")},
        spearman=("spearman", "mean"),
    )
    shown = shown.reset_index()
    shown["task"] = _both(shown, "task")
    shown["localizer"] = _both(shown, "localizer")
    for name in _MEASURES:
        texts = zip(shown[name].map(_text), shown.pop(f"expected_{name}").map(_text), strict=True)
        shown[name] = [f"{value} ({chance})" if value != MISSING else MISSING for value, chance in texts]
    shown["spearman"] = shown["spearman"].map(_text)
    shown = shown.drop(columns=["other_task", "other_localizer"])
    shown = shown.rename(columns={"kind": "differ in", "emd": "EMD", "jaccard": "Jaccard", "spearman": "Spearman"})
    write_plain_table(frame, shown, stem, title=output.title, legend=LEGEND)


def _text(value: float) -> str:
    return MISSING if pd.isna(value) else f"{value:.2f}"


def _both(frame: pd.DataFrame, name: str) -> list[str]:
    pairs = zip(frame[name], frame[f"other_{name}"], strict=True)
    return [one if one == other else f"{one} / {other}" for one, other in pairs]


def overlap_matrix(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the means over the pairs of rankings of two tasks; of one task, over its pairs of seeds.

    Rows are made for each model and localizer with several tasks, at the largest k that is not all heads.

    Args:
        pairs: as :func:`overlap_pairs` returns them.

    Returns:
        ``model``, ``localizer``, ``k``, ``task``, ``other_task`` (both orders), ``rankings`` and ``pairs`` (numbers
        behind the means), ``overlap`` and ``emd`` with ``expected_overlap`` and ``expected_emd`` (of random heads), and
        ``note`` (which failed and why). If all rankings failed, the numbers are 0 and the means NaN.
    """
    frame = pairs[(pairs["localizer"] == pairs["other_localizer"]) & pairs["kind"].isin(["tasks", "seeds"])]
    chance = frame.groupby(["model", "k"])["expected_overlap"].transform("max")  # a failed ranking has none
    some = ~(chance > 1 - 1e-9)  # with all heads selected, any two rankings agree
    frame = frame[some | ~some.groupby(frame["model"]).transform("any")]
    frame = frame[frame["k"] == frame.groupby("model")["k"].transform("max")]
    several = frame[frame["kind"] == "tasks"].groupby(["model", "localizer"]).size().index
    frame = frame[frame.set_index(["model", "localizer"]).index.isin(several)]
    swapped = frame[frame["kind"] == "tasks"].rename(columns={"task": "other_task", "other_task": "task"})
    keys = ["model", "localizer", "k", "task", "other_task"]
    both = pd.concat([frame, swapped])
    matrix = both.groupby(keys, sort=False).agg(
        pairs=("overlap", "count"),
        **{name: (name, "mean") for measure in _PANELS for name in (measure, f"expected_{measure}")},
        note=("note", joined),
    )
    used = both.dropna(subset=["overlap"]).melt(keys, ["first", "second"]).groupby(keys)["value"].nunique()
    matrix.insert(0, "rankings", used.reindex(matrix.index, fill_value=0))
    return matrix.reset_index()


def draw_overlap(matrix: pd.DataFrame, stem: Path, *, title: str) -> list[Path]:
    """Draw overlap and earth mover's distance of each model and localizer, as ``<stem>.pdf``, ``.png`` and ``.csv``.

    Cells without a value are hatched, and marked "failed" if rankings failed.

    Args:
        matrix: as :func:`overlap_matrix` returns it.
        stem: path without suffix.
        title: title of the figure.

    Returns:
        The three paths.
    """
    groups = list(matrix.groupby(["model", "localizer"], sort=False))
    tasks = list(dict.fromkeys([*matrix["task"], *matrix["other_task"]]))
    side = max(2.4, 0.62 * len(tasks))
    furthest = matrix["emd"].max()
    scales = {"overlap": Normalize(0, 1), "emd": Normalize(0, furthest if furthest > 0 else 1)}
    with figure_style():
        figure = Figure(figsize=(2 * (side + 1.1) + 0.6, len(groups) * (side + 1.7) + 1.3), layout="constrained")
        set_title(figure, title)
        grid = figure.subplots(len(groups), 2, squeeze=False)
        for line, ((model, localizer), panel) in zip(grid, groups, strict=True):
            for axes, measure in zip(line, _PANELS, strict=True):
                _draw_panel(axes, panel, tasks, measure, scales[measure])
                axes.set_title(f"{model}, {localizer}\n{axes.get_title()}")
        set_caption(figure, _caption(matrix))
        return save_with_csv(figure, matrix, stem)


def _draw_panel(axes: Axes, panel: pd.DataFrame, tasks: list[str], measure: str, scale: Normalize) -> None:
    name, palette = _PANELS[measure]
    colours = matplotlib.colormaps[palette]
    cells = {(cell["task"], cell["other_task"]): cell for cell in panel.to_dict("records")}
    for row, task in enumerate(tasks):
        for column, other in enumerate(tasks):
            cell = cells.get((task, other))
            known = cell is not None and cell["pairs"] > 0
            face: Any = colours(scale(cell[measure])) if cell and known else "white"
            hatch = None if known else "///"
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=face, edgecolor="0.72", hatch=hatch))
            if cell:
                text, ink = (f"{cell[measure]:.2f}", ink_on(face)) if known else ("failed", "black")
                box = None if known else {"facecolor": face, "edgecolor": "none", "pad": 1.0}
                axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8, bbox=box)
    axes.set_xlim(-0.5, len(tasks) - 0.5)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(tasks)), tasks)
    axes.tick_params(length=0)
    chance = panel[f"expected_{measure}"].max()
    random = f"; random heads {chance:.2f}" if pd.notna(chance) else ""
    axes.set_title(f"{name}\nK = {panel['k'].iloc[0]}{random}")


def _caption(matrix: pd.DataFrame) -> str:
    text = (
        "Left: heads that the K best of two rankings have in common, divided by K. Right: earth mover's distance "
        "between the layers of the two sets of heads. On the diagonal: the same task with another seed. Means over "
        f"pairs of rankings; random heads: {DRAWS:,} pairs drawn for the distance, exact for the overlap."
    )
    counted = matrix[matrix["pairs"] > 0]
    if len(counted):
        text += f" n = {span(counted['pairs'], 'pair')} of {span(counted['rankings'], 'ranking')} per cell."
    text += " Hatched: nothing to compare, such as a single seed."
    if matrix["note"].any():
        text += " Some rankings failed: the CSV says which and why."
    return text
