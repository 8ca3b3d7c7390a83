"""The transfer matrix and its heat map: how well heads selected on one task work for another."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from lofit.config.experiments import RANDOM
from lofit.errors import ReportError
from lofit.plan.table import TRANSFER, RunTable
from lofit.report.cells import Cell, aggregate, complete_rows, folds_by_task, headline_rows
from lofit.report.figures import save_with_csv, span
from lofit.report.items import item_scores
from lofit.report.outputs import Output
from lofit.report.parts import read_part
from lofit.report.paths import headline as headline_of
from lofit.report.significance import UNITS
from lofit.report.style import figure_style, ink_on, set_caption, set_title
from lofit.stats import Sample, by_seed, half_width, holm, paired_bootstrap_p, paired_sample

_COLUMNS = [
    "model", "head_task", "task", "value", "relative", "relative_low", "relative_high", "p", "p_holm", "n_seeds",
    "n_items", "status", "note",
]  # fmt: skip
RANDOM_HEADS = "random heads"
"""``head_task`` of runs with random heads; no task can be called like that."""
# Significance levels at which the paper's Figure 2 marks a cell; its p-values are not corrected for multiple tests.
_MARKS = {0.05: "*", 0.1: "°"}
# A colour-blind safe palette (ColorBrewer): light at 1, orange below, purple above, darker with the distance.
_COLOURS = "PuOr"
_MIN_SPAN, _MAX_SPAN = 0.25, 1.0
_PANELS_PER_ROW = 3


def transfer_matrix(
    results: pd.DataFrame,
    headline: Mapping[str, str],
    n_heads: int,
    items: pd.DataFrame,
    *,
    method: str = "lofit",
    selector: str = "lofit",
    random_row: bool = False,
) -> pd.DataFrame:
    """Build the transfer matrix: one row per model, task on which the heads were selected, and task trained for.

    Only runs of ``method`` with ``n_heads`` heads ranked by ``selector`` count, and with ``random_row`` those with as
    many random heads, whose ``head_task`` is ``RANDOM_HEADS``. ``value`` is the headline metric, with folds averaged
    within a seed and then seeds. ``relative`` is ``value`` divided by the value of the same model and task with heads
    selected on the task itself, both over the seeds that are complete in both cells; it is NaN if there are none or if
    that value is 0. If a task was trained with several numbers of examples, runs with its own heads count only at the
    number used for transfer.

    Args:
        results: tidy results, as ``collect`` writes them.
        headline: task to headline metric; its order is the order of the rows and columns.
        n_heads: number of heads edited (K).
        items: the scores of every test item, as ``collect_items`` writes them.
        method: the method whose heads are transferred.
        selector: the localizer that ranked the heads.
        random_row: whether to compare with random heads too.

    Returns:
        Columns model, head_task, task, value (float64, fraction), relative (float64, fraction) with relative_low and
        relative_high (its 95% confidence interval over the clusters of items and the seeds that both scores share, by
        linearising the ratio; NaN on the diagonal), p and p_holm (float64), n_seeds (int64, complete seeds), n_items
        (int64, test items of all folds), status (``ok``, ``partial``, ``failed``, ``missing``) and note (what is absent
        and why; empty if nothing is), for all pairs of the tasks that occur, and of random heads with all these tasks.
        ``p`` is the one-sided p-value of a paired bootstrap over the same seeds as ``relative``; the null hypothesis is
        that heads of the task itself are no better. ``p_holm`` is ``p`` corrected by Holm's method over all such tests
        of the model. Both are NaN on the diagonal and where there is nothing to test.

    Raises:
        ReportError: there are no such runs, or some must not share a cell; see also ``headline_rows``.
    """
    candidates = results[(results["method"] == method) & (results["selector"] == selector)]
    rows = candidates[(candidates["n_heads"] == n_heads).fillna(False).astype(bool)]
    if rows.empty:
        known = ", ".join(str(int(count)) for count in sorted(candidates["n_heads"].dropna().unique())) or "none"
        raise ReportError(
            f"no {method} runs with {n_heads} heads chosen by {selector} to draw transfer from; numbers of heads that "
            f"there are: {known}"
        )
    if random_row:
        drawn = results[(results["method"] == method) & (results["selector"] == RANDOM)]
        drawn = drawn[(drawn["n_heads"] == n_heads).fillna(False).astype(bool)]
        rows = pd.concat([rows, drawn.assign(head_task=RANDOM_HEADS)])
    rows = _same_size(headline_rows(rows, headline))
    present = set(rows["task"]) | set(rows["head_task"].dropna()) - {RANDOM_HEADS}
    unknown = sorted(present - set(headline))
    if unknown:
        raise ReportError(f"no headline metric is given for task {unknown[0]}; name one, or leave its rows out")
    tasks = [task for task in headline if task in present]
    folds = folds_by_task(rows)
    records: list[dict[str, Any]] = []
    cells: list[Cell] = []
    for model in rows["model"].unique():
        for head_task in [*tasks, *([RANDOM_HEADS] if random_row else [])]:
            for task in tasks:
                group = rows[(rows["model"] == model) & (rows["head_task"] == head_task) & (rows["task"] == task)]
                cell = aggregate(group, folds.get(task, set()), {int(seed) for seed in group["seed"]})
                cells.append(cell)
                records.append(
                    {
                        **dict.fromkeys(_COLUMNS, math.nan),
                        "model": model, "head_task": head_task, "task": task, "value": cell.value, "n_items": 0,
                        "n_seeds": cell.n_seeds, "status": cell.status,
                        "note": cell.note or ("no run" if cell.status == "missing" else ""),
                    }
                )  # fmt: skip
    own = {
        (record["model"], record["task"]): cell for record, cell in zip(records, cells, strict=True) if _is_own(record)
    }
    scores = item_scores(complete_rows(rows, ["model", "head_task", "task"]), items)
    rng = np.random.default_rng(0)
    for record, cell in zip(records, cells, strict=True):
        base = own[record["model"], record["task"]].by_seed
        both = [seed for seed in cell.by_seed if seed in base]
        if both and (total := sum(base[seed] for seed in both)) > 0:
            record["relative"] = sum(cell.by_seed[seed] for seed in both) / total
        same = scores[(scores["model"] == record["model"]) & (scores["task"] == record["task"])]
        theirs = same[same["head_task"] == record["head_task"]]
        record["n_items"] = theirs["item"].nunique()
        if both and not _is_own(record):
            own_scores = same[same["head_task"] == record["task"]]
            ours, other = (by_seed(part[part["seed"].isin(both)]) for part in (own_scores, theirs))
            record["p"] = paired_bootstrap_p(paired_sample(ours, other), rng)
            ratio, of = record["relative"], Sample.of(ours).mean
            half = half_width(paired_sample(other, ours, ratio)) / of if of > 0 else math.nan
            record |= {"relative_low": ratio - half, "relative_high": ratio + half}
    for model in rows["model"].unique():
        of_model = [record for record in records if record["model"] == model]
        for record, p in zip(of_model, holm([record["p"] for record in of_model]), strict=True):
            record["p_holm"] = p
    return pd.DataFrame(records, columns=_COLUMNS)


def draw_transfer(
    matrix: pd.DataFrame, stem: Path, *, title: str, headline: Mapping[str, str], n_heads: Mapping[str, int]
) -> list[Path]:
    """Draw the matrix as ``<stem>.pdf`` and ``<stem>.png``, and write it as ``<stem>.csv``.

    There is one panel per model. Rows are the tasks on which heads were selected, and random heads if there are any;
    columns are the tasks on which offsets were trained and evaluated. The colour shows the relative value, centred at
    100%. Each cell shows the relative value, its interval and, in brackets, the absolute value, all in percent. Cells
    without a value are hatched and show the status.

    Args:
        matrix: as ``transfer_matrix`` returns it.
        stem: path of the figure without suffix.
        title: title of the figure.
        headline: task to headline metric, for the labels.
        n_heads: model to number of heads edited (K), for the caption.

    Returns:
        The three paths.
    """
    with figure_style():
        figure = _figure(matrix, headline, n_heads)
        set_title(figure, title)
        return save_with_csv(figure, matrix, stem)


def caption(matrix: pd.DataFrame, n_heads: Mapping[str, int]) -> str:
    """Return the caption: K, the numbers of test items and seeds, what the cells show, and the meaning of the marks."""
    known = matrix[matrix["n_seeds"] > 0]
    n = f"n = {span(known['n_items'], 'test item')}, {span(known['n_seeds'], 'seed')}" if len(known) else "no scores"
    same = len(set(n_heads.values())) == 1
    heads = str(next(iter(n_heads.values()))) if same else ", ".join(f"{k} ({model})" for model, k in n_heads.items())
    text = (
        f"K = {heads} heads; {n}. Each cell: score relative to heads selected on the same task (the diagonal of its "
        f"column, 100%) with its 95% interval {UNITS}, and in brackets the score "
        "itself, in percent."
    )
    if (matrix["head_task"] == RANDOM_HEADS).any():
        text += " Last row: K heads drawn at random, anew for each task and seed."
    if (matrix["p"] <= max(_MARKS)).any():
        marks = ", ".join(f"{mark} p ≤ {level:g}" for level, mark in _MARKS.items())
        text += (
            f" Lower than with heads of the same task: {marks} (one-sided paired bootstrap over clusters of items; "
            f"uncorrected, as in the paper). Corrected for all cells of a model, {_count(matrix)} at p ≤ 0.05."
        )
    if (matrix["status"] == "partial").any():
        text += " † some seeds are left out, since a run failed or is missing."
    if (matrix["value"].notna() & matrix["relative"].isna()).any():
        text += " n/a: the same-task value of these seeds is 0 or absent."
    if (matrix["status"] != "ok").any():
        text += " What failed or is missing, and why: see the CSV."
    return text


def _count(matrix: pd.DataFrame) -> str:
    lower = int((matrix["p_holm"] <= 0.05).sum())
    return f"{lower or 'none'} {'is' if lower < 2 else 'are'} lower"


def _is_own(record: Mapping[str, Any]) -> bool:
    return bool(record["head_task"] == record["task"])


def _same_size(rows: pd.DataFrame) -> pd.DataFrame:
    kept = []
    for (model, task, _), group in rows.groupby(["model", "task", "fold"], sort=False):
        moved = group[group["head_task"] != group["task"]]
        sizes = sorted({int(size) for size in (moved if len(moved) else group)["n_train"]})
        if len(sizes) > 1:
            raise ReportError(
                f"transfer runs of {model} on {task} use {', '.join(map(str, sizes))} training examples, which must "
                "not share a figure; keep the rows of one number"
            )
        kept.append(group[group["n_train"] == sizes[0]])
    return pd.concat(kept).sort_index()


def _figure(matrix: pd.DataFrame, headline: Mapping[str, str], n_heads: Mapping[str, int]) -> Figure:
    models = list(matrix["model"].unique())
    tasks = list(matrix["task"].unique())
    across = min(len(models), _PANELS_PER_ROW)
    down = math.ceil(len(models) / across)
    side = max(2.4, 0.95 * len(tasks))
    tall = side * matrix["head_task"].nunique() / len(tasks)
    width, height = across * (side + 1.0) + 1.0, down * (tall + 1.3) + 0.9
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    colours = matplotlib.colormaps[_COLOURS]
    relative = matrix["relative"].dropna()
    furthest = float((relative - 1).abs().max()) if len(relative) else 0.0
    span = min(max(furthest, _MIN_SPAN), _MAX_SPAN)
    norm = Normalize(1 - span, 1 + span)
    used = []
    for position, axes in enumerate(grid.flat):
        if position >= len(models):
            axes.remove()
            continue
        used.append(axes)
        panel = matrix[matrix["model"] == models[position]]
        _draw_panel(axes, panel, tasks, headline, colours, norm)
        axes.set_title(models[position])
        axes.set_xlabel("offsets trained and evaluated on")
        if position % across == 0:
            axes.set_ylabel("heads selected on")
    bar = figure.colorbar(
        ScalarMappable(norm, colours),
        ax=used,
        extend="max" if furthest > span else "neither",
        aspect=25,
        pad=0.02,
        format=PercentFormatter(1, decimals=0),
    )
    bar.set_label("score relative to same-task heads")
    bar.ax.axhline(1, color="black", linewidth=0.8)
    set_caption(figure, caption(matrix, n_heads))
    return figure


def _draw_panel(
    axes: Axes,
    panel: pd.DataFrame,
    tasks: list[str],
    headline: Mapping[str, str],
    colours: Colormap,
    norm: Normalize,
) -> None:
    cells = {(cell["head_task"], cell["task"]): cell for cell in panel.to_dict("records")}
    head_tasks = list(panel["head_task"].unique())
    for row, head_task in enumerate(head_tasks):
        for column, task in enumerate(tasks):
            cell = cells.get((head_task, task), {"value": math.nan, "status": "missing"})
            _draw_cell(axes, row, column, cell, own=head_task == task, colours=colours, norm=norm)
    axes.set_xlim(-0.5, len(tasks) - 0.5)
    axes.set_ylim(len(head_tasks) - 0.5, -0.5)
    if RANDOM_HEADS in head_tasks:
        axes.axhline(len(tasks) - 0.5, color="black", linewidth=1.2)
    axes.set_aspect("equal")
    slant: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if len(tasks) > 3 else {}
    axes.set_xticks(range(len(tasks)), [f"{task}\n({headline[task]})" for task in tasks], **slant)
    axes.set_yticks(range(len(head_tasks)), head_tasks)
    axes.tick_params(length=0)


def _draw_cell(
    axes: Axes, row: int, column: int, cell: Mapping[Hashable, Any], *, own: bool, colours: Colormap, norm: Normalize
) -> None:
    corner = (column - 0.5, row - 0.5)
    if pd.isna(cell["value"]):
        face, hatch = ("white", "///") if cell["status"] == "missing" else ("0.93", "xxx")
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=face, edgecolor="0.72", hatch=hatch))
        box = {"facecolor": face, "edgecolor": "none", "pad": 1.5}
        axes.text(column, row, cell["status"], ha="center", va="center", bbox=box)
        ink = "black"
    else:
        known = pd.notna(cell["relative"])
        colour = colours(float(norm(cell["relative"]))) if known else (0.97, 0.97, 0.97, 1.0)
        ink = ink_on(colour)
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="0.72"))
        mark = next((mark for level, mark in _MARKS.items() if cell["p"] <= level), "")
        text = (
            (f"{100 * cell['relative']:.0f}%" if known else "n/a") + mark + ("†" if cell["status"] == "partial" else "")
        )
        place: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center", "color": ink}
        axes.annotate(text, (column, row), (0, 10), **place)
        if pd.notna(cell["relative_low"]):
            bounds = f"[{100 * cell['relative_low']:.0f}, {100 * cell['relative_high']:.0f}]"
            axes.annotate(bounds, (column, row), (0, -1), fontsize=6, **place)
        axes.annotate(f"({100 * cell['value']:.1f})", (column, row), (0, -12), fontsize=7, **place)
    if own:
        axes.add_patch(Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=ink))


def write(table: RunTable, output: Output) -> None:
    """Draw the heat map under the first protocol."""
    config = table.config
    assert config.transfer
    protocol, names = config.protocols[0], config.transfer.tasks or config.tasks
    chosen = {name: metric for name, metric in headline_of(table, protocol).items() if name in names}
    results, items = read_part(table, TRANSFER)
    results = results[results["task"].isin(chosen) & (results["head_task"].isna() | results["head_task"].isin(chosen))]
    n_heads = {model: config.head_count(model, config.transfer.k) for model in config.models}
    name = config.transfer.method
    options: dict[str, Any] = {"selector": table.expansion.localizer_of(name), "random_row": config.transfer.random_row}
    matrix = pd.concat(
        [
            transfer_matrix(results[results["model"] == model], chosen, k, items, method=name, **options)
            for model, k in n_heads.items()
        ]
    )
    draw_transfer(matrix, table.drawn / output.id, title=output.title, headline=chosen, n_heads=n_heads)
