"""The map of heads: the score of every attention head, by layer, and which are selected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lofit.plan.ranking_pairs import configured_rankings, setting
from lofit.plan.table import RunTable
from lofit.rankings.ranking import read_ranking
from lofit.report.figures import panels_of, save_with_csv
from lofit.report.outputs import Output
from lofit.report.style import figure_style, set_caption

WHERE = ["model", "task", "localizer"]
COLUMNS = ["ranking", *WHERE, "fold", "seed", "training_seed", "layer", "head", "score", "rank", "selected"]
FIRST, LAST = "first", "last"


def head_scores(table: RunTable) -> pd.DataFrame:
    """Return the scores of all heads in every ranking on the configured splits.

    Returns:
        One row per ranking and head: ``ranking`` (its id), ``model``, ``task``, ``localizer`` (with what is set
        otherwise than is usual), ``fold``, ``seed``, ``training_seed``, ``layer``, ``head``, ``score``, ``rank`` (1 is
        best) and ``selected``: ``first`` if the head is among the first K, K being the largest number of heads that a
        run may edit because of this ranking; ``last`` if it is among the last, where a run edits those; else empty. A
        ranking that failed has no rows.
    """
    parts = [pd.DataFrame(columns=COLUMNS)]
    for node in configured_rankings(table):
        users = [fit for fit in table.fits.values() if fit.ranking and fit.ranking.id == node.id]
        first = max((k for fit in users if not fit.bottom for k in fit.k), default=0)
        last = max((k for fit in users if fit.bottom for k in fit.k), default=0)
        frame = read_ranking(table.folder(node) / "heads.parquet")
        frame = frame.assign(
            ranking=node.id,
            model=node.model,
            task=node.data.task,
            localizer=setting(table, node),
            fold=node.data.fold,
            seed=node.data.seed,
            training_seed=node.own_seed,
            selected=np.select([frame["rank"] <= first, frame["rank"] > len(frame) - last], [FIRST, LAST], ""),
        )
        parts.append(frame[COLUMNS])
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def write(table: RunTable, output: Output) -> None:
    """Draw the map of every model, task and localizer, for its first fold and seed."""
    draw_heads(head_scores(table), table.drawn / output.id, title=output.title)


def draw_heads(frame: pd.DataFrame, stem: Path, *, title: str) -> list[Path]:
    """Draw the scores of heads as ``<stem>.pdf`` and ``.png``, those of all rankings go to ``<stem>.csv``.

    There is one panel for each model, task and localizer, with the ranking of the first fold and seed. Colours are from
    the lowest score of a panel to its highest, since scores of different localizers have different units; selected
    heads have a frame, those at the end of a ranking a round one.

    Args:
        frame: as :func:`head_scores` returns it.
        stem: path without suffix.
        title: title of the figure.
    """
    panels = [
        (key, group[group["ranking"] == group["ranking"].iloc[0]]) for key, group in frame.groupby(WHERE, sort=False)
    ]
    with figure_style():
        figure, grid = panels_of(max(1, len(panels)), title)
        for axes, ((model, task, localizer), panel) in zip(grid, panels, strict=False):
            values = panel.pivot(index="layer", columns="head", values="score")
            axes.imshow(values, cmap="cividis", aspect="auto", origin="lower")
            for end, marker in ((FIRST, "s"), (LAST, "o")):
                part = panel[panel["selected"] == end]
                axes.scatter(
                    part["head"], part["layer"], marker=marker, s=14, facecolors="none", edgecolors="#D55E00",
                    linewidths=0.9,
                )  # fmt: skip
            axes.set_title(f"{task}, {localizer}\n{model}", fontsize=8)
            axes.set_xlabel("head")
            axes.set_ylabel("layer")
            axes.set_xticks(range(0, len(values.columns), max(1, len(values.columns) // 8)))
        note = "Yellow: the highest score of a panel; squares: among the first K. First fold and seed; the CSV has all."
        if (frame["selected"] == LAST).any():
            note = note.replace("first K.", "first K; circles: among the last K, on which a run has offsets, too.")
        set_caption(figure, note if panels else "No ranking to draw.")
        return save_with_csv(figure, frame, stem)
