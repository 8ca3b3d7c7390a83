"""A static site over several studies (``lofit site``): a leaderboard of all their methods, and the page of each."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import altair as alt
import pandas as pd

from lofit.errors import ReportError
from lofit.files import user_folder, write_text
from lofit.report.interactive import specification
from lofit.report.outputs import COSTS
from lofit.report.page import document
from lofit.report.tables import MISSING, cell_text
from lofit.spec.protocol import Protocol, table_name

PAGE = "report.html"
SHOWN = ["study", "model", "task", "metric", "protocol", "method", "score", "seeds", "trained parameters", "seconds"]
AXES = {"trained parameters": "trained_params", "seconds": "seconds"}
"""What scores can be drawn against, and its column."""


def write_site(studies: Sequence[Path], out: Path) -> Path:
    """Write ``index.html``, ``leaderboard.csv``, and for each study a folder with its page.

    Args:
        studies: results folders with the figures and the page of a study.
        out: folder to write: a new one, an empty one, or an earlier site, which is replaced.

    Returns:
        The path of the index.

    Raises:
        ReportError: a study has not been drawn.
        LofitError: the folder holds anything else, or a study.
    """
    names = _names(studies)
    parts = [leaderboard(folder).assign(study=name) for folder, name in zip(studies, names, strict=True)]
    board = pd.concat(parts, ignore_index=True)
    shown = board.assign(score=list(map(cell_text, board.to_dict("records"))))
    for name, column in AXES.items():
        shown[name] = [MISSING if pd.isna(value) else f"{value:,.0f}" for value in board[column]]
    page = document(
        "site.html.j2", {"leaderboard": list(map(specification, _charts(board)))}, None, names=names, page=PAGE,
        columns=SHOWN, lines=shown[SHOWN].to_numpy().tolist(),
    )  # fmt: skip
    with user_folder(out, outside=studies) as part:
        for folder, name in zip(studies, names, strict=True):
            (part / name).mkdir(parents=True)
            shutil.copyfile(folder / PAGE, part / name / PAGE)
        board.to_csv(part / "leaderboard.csv", index=False)
        write_text(part / "index.html", page)
    return out / "index.html"


def leaderboard(folder: Path) -> pd.DataFrame:
    """Return the scores of a study's main comparison, under every protocol, with its costs.

    Returns:
        The columns of :func:`lofit.report.tables.cells`, ``trained_params`` and ``seconds`` (means over the tasks).

    Raises:
        ReportError: the study has not been drawn.
    """
    files = [folder / "figures" / f"{table_name(protocol)}.csv" for protocol in get_args(Protocol)]
    scores, costs = [pd.read_csv(file) for file in files if file.is_file()], folder / "figures" / f"{COSTS}.csv"
    if not (scores and costs.is_file() and (folder / PAGE).is_file()):
        raise ReportError(f"{folder} has no drawn study ({PAGE}, figures); run it to its end")
    cost = pd.read_csv(costs)[["model", "arm", *AXES.values()]]
    return pd.concat(scores, ignore_index=True).merge(cost.rename(columns={"arm": "method"}), how="left")


def _names(studies: Sequence[Path]) -> list[str]:
    """Name every study by its folder; where several would have one name, by the folder above and a number, too."""
    folders = [folder.resolve() for folder in studies]
    several = Counter(folder.name for folder in folders)
    names = [folder.name if several[folder.name] == 1 else f"{folder.parent.name}-{folder.name}" for folder in folders]
    return [name if names.count(name) == 1 else f"{name}-{at}" for at, name in enumerate(names, start=1)]


def _charts(board: pd.DataFrame) -> Iterator[alt.LayerChart]:
    """Draw one task of one model; both, and what scores are drawn against, are chosen on the page."""
    known = board.dropna(subset=["percent"])
    if known.empty:
        return
    cells = known.assign(where=known["task"] + ", " + known["model"] + ", " + known["protocol"])
    where, axis = (
        alt.param(name, value=values[0], bind=alt.binding_select(options=values, name=f"{label} "))
        for name, label, values in (
            ("where", "task", list(dict.fromkeys(cells["where"]))),
            ("axis", "against", list(AXES)),
        )
    )
    base = (
        alt.Chart(cells[["where", "study", "method", "percent", "percent_low", "percent_high", *AXES.values()]])
        .transform_filter("datum.where == where")
        .transform_calculate(
            x=" : ".join(f"axis == '{name}' ? datum.{column}" for name, column in AXES.items()) + " : 0"
        )
        .transform_filter("datum.x > 0")
        .properties(width=520, height=300, description="Scores of all studies against their costs")
    )
    x = alt.X(
        "x:Q",
        title="trained parameters, or seconds",
        scale=alt.Scale(type="log", padding=30),
        axis=alt.Axis(format="~s", tickCount=6),
    )
    numbers = [alt.Tooltip(f"{name}:Q", format=".1f") for name in ("percent", "percent_low", "percent_high")]
    bars = base.mark_rule().encode(x=x, y=alt.Y("percent_low:Q", title="score (%)"), y2="percent_high:Q")
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=x, y="percent:Q", color=alt.Color("study:N"), tooltip=["study:N", "method:N", "x:Q", *numbers]
    )
    names = base.mark_text(dx=8, dy=-6, align="left", fontSize=10).encode(x=x, y="percent:Q", text="method:N")
    yield (bars + points + names).add_params(where, axis)
