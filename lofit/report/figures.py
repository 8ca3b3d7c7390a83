"""Figures of experiments for print: curves, layers of selected heads, and trade-offs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, LogFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from lofit.files import atomic_path
from lofit.report.significance import UNITS, leads
from lofit.report.style import LINES, figure_style, line_style, save_figure, set_caption, set_title

_ACROSS = 3
_ASIDE = 3.5
"""Distance of the error bars of two arms, in points."""
Axis = Literal["share", "heads", "n_train"]
_AXES: dict[Axis, str] = {"share": "share of heads (%)", "heads": "heads", "n_train": "training examples"}


def draw_dots(frame: pd.DataFrame, stem: Path, *, title: str) -> list[Path]:
    """Draw the score of every method with its interval, one panel per model and task; the base model is a line.

    The figure is written as ``<stem>.pdf`` and ``.png``, and the data as ``.csv``. A method without a score has a line
    that says why.

    Args:
        frame: as :func:`lofit.report.tables.cells` returns it.
        stem: path without suffix.
        title: title of the figure.
    """
    methods = list(dict.fromkeys(frame["method"]))
    panels = list(frame.assign(leads=leads(frame)).groupby(["model", "task"], sort=False))
    across = min(len(panels), _ACROSS)
    down = math.ceil(len(panels) / across)
    height = 0.2 * len(methods) + 0.9
    with figure_style():
        figure = Figure(figsize=(max(5.0, 2.2 + 2.0 * across), height * down + 0.7), layout="constrained")
        set_title(figure, title)
        grid = list(figure.subplots(down, across, squeeze=False, sharey=True).flat)
        for axes in grid[len(panels) :]:
            axes.remove()
        for axes, ((model, task), panel) in zip(grid, panels, strict=False):
            for line in panel.to_dict("records"):
                y = methods.index(line["method"])
                if math.isnan(line["percent"]):
                    axes.text(0.02, y, line["status"], transform=axes.get_yaxis_transform(), fontsize=7, va="center")
                    continue
                bars = np.array([[line["percent"] - line["percent_low"]], [line["percent_high"] - line["percent"]]])
                blue = LINES[0]["color"]
                axes.errorbar(
                    line["percent"], y, xerr=None if np.isnan(bars).any() else bars, fmt="o", markersize=4.5,
                    color=blue, markerfacecolor=blue if line["leads"] else "white", elinewidth=1, capsize=2,
                )  # fmt: skip
                if line["method"] == "base":
                    axes.axvline(line["percent"], color="0.4", linestyle="--", linewidth=0.8)
            axes.set_yticks(range(len(methods)), methods)
            axes.set_ylim(len(methods) - 0.5, -0.5)
            axes.set_title(f"{task}, {model}")
            axes.set_xlabel(f"{panel['metric'].iloc[0]} (%)")
            axes.grid(alpha=0.25, linewidth=0.5, axis="x")
        note = f"Bars: 95% interval {UNITS}. Filled: the best, and what does not differ significantly from it."
        set_caption(figure, note)
        return save_with_csv(figure, frame, stem)


def draw_curves(frame: pd.DataFrame, stem: Path, *, title: str, axis: Axis, metrics: Mapping[str, str]) -> list[Path]:
    """Draw score against ``axis``, one panel per model and task, as ``<stem>.pdf``, ``.png`` and ``.csv``.

    Args:
        frame: as ``points`` returns it.
        stem: path without suffix.
        title: title of the figure.
        axis: meaning of ``x``: a share of the heads (drawn in percent), a number of heads, or a number of training
            examples.
        metrics: task to headline metric.

    Returns:
        The three paths.
    """
    frame = frame.sort_values("x", kind="stable")
    scale = 100 if axis == "share" else 1
    panels, arms = list(frame.groupby(["model", "task"], sort=False)), list(dict.fromkeys(frame["arm"]))
    drawn: dict[str, Any] = {}
    with figure_style():
        figure, grid = panels_of(len(panels), title)
        for axes, ((model, task), panel) in zip(grid, panels, strict=False):
            places = sorted(set(scale * panel["x"]))
            for arm, line in panel.groupby("arm", sort=False):
                known = line.dropna(subset=["value"])
                # Side by side, since one would hide the other: intervals of arms on the same items are alike.
                aside = ScaledTranslation(
                    (arms.index(arm) - (len(arms) - 1) / 2) * _ASIDE / 72, 0, figure.dpi_scale_trans
                )
                drawn[str(arm)] = axes.errorbar(
                    scale * known["x"], 100 * known["value"],
                    100 * np.stack([known["value"] - known["low"], known["high"] - known["value"]]),
                    label=str(arm), markersize=4, linewidth=1.2, elinewidth=0.8, transform=axes.transData + aside,
                    **line_style(arms.index(arm)),
                )  # fmt: skip
                for end in ("value", "low", "high"):  # what is drawn aside does not widen the axes by itself
                    axes.update_datalim(np.column_stack([scale * known["x"], 100 * known[end].fillna(known["value"])]))
            axes.autoscale_view()
            for x, lost in panel[panel["value"].isna()].groupby(scale * panel["x"]):
                axes.axvline(x, color="0.4", linestyle=":", linewidth=0.8)
                axes.annotate(
                    "\n".join(lost["arm"] + ": " + lost["status"]), (x, 0.02), xycoords=("data", "axes fraction"),
                    rotation=90, fontsize=6, ha="left" if x == places[0] else "right", va="bottom",
                )  # fmt: skip
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(FixedLocator(places))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter("{x:g}")
            axes.tick_params(axis="x", rotation=45)
            axes.set_title(f"{task}, {model}")
            axes.set_xlabel(_AXES[axis])
            axes.set_ylabel(f"{metrics[str(task)]} (%)")
            axes.grid(alpha=0.25, linewidth=0.5)
        _finish(figure, drawn, _caption(frame, f"Bars: 95% interval {UNITS}."))
        return save_with_csv(figure, frame.assign(axis=_AXES[axis], metric=frame["task"].map(metrics)), stem)


def draw_layers(frame: pd.DataFrame, stem: Path, *, title: str) -> list[Path]:
    """Draw in which layers the selected heads are, one panel per model and arm, one row per task.

    The figure is written as ``<stem>.pdf`` and ``.png``, and the data as ``.csv``. A task whose rankings all failed has
    a row that says so.

    Args:
        frame: as ``layer_counts`` returns it.
        stem: path without suffix.
        title: title of the figure.
    """
    panels = list(frame.groupby(["model", "arm"], sort=False))
    widest = max(panel["layer"].max() + 1 for _, panel in panels)
    tasks = max(panel["task"].nunique() for _, panel in panels)
    with figure_style():
        figure = Figure(
            figsize=(max(5.0, 0.22 * widest + 2.2), len(panels) * (0.32 * tasks + 1.1) + 0.9), layout="constrained"
        )
        set_title(figure, title)
        grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        top = 100 * frame["share"].max()  # NaN without any ranking
        for axes, ((model, arm), panel) in zip(grid, panels, strict=True):
            shares = 100 * panel.pivot(index="task", columns="layer", values="share").loc[panel["task"].unique()]
            image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=top if top > 0 else 100, aspect="auto")
            for row in np.flatnonzero(shares.isna().all(axis=1)):
                axes.text((len(shares.columns) - 1) / 2, row, "no ranking", ha="center", va="center", fontsize=8)
            axes.set_yticks(range(len(shares)), shares.index)
            axes.set_xticks(range(0, len(shares.columns), max(1, len(shares.columns) // 15)))
            axes.set_xlabel("layer")
            axes.set_title(f"{model}, {arm}")
        figure.colorbar(image, ax=list(grid), label="of the selected heads (%)", aspect=25, pad=0.02)
        known, caption = frame[frame["n_rankings"] > 0], ""
        if len(known):
            counts = f"{span(known['n_seeds'], 'seed')}, {span(known['n_folds'], 'fold')}"
            caption = f"Mean over n = {span(known['n_rankings'], 'ranking')} per task ({counts}). "
        if frame["note"].any():
            caption += "Some rankings failed: the CSV says which and why."
        set_caption(figure, caption)
        return save_with_csv(figure, frame, stem)


def draw_pareto(frame: pd.DataFrame, stem: Path, *, title: str) -> list[Path]:
    """Draw the mean score over the tasks against trained parameters and against seconds.

    The figure is written as ``<stem>.pdf`` and ``.png``, and the data as ``.csv``. An arm without a score on some task
    has no mean. It is named below the figure, and its row in the CSV says why. Intervals treat the tasks as fixed and
    their items as the sample.

    Args:
        frame: as ``points`` returns it.
        stem: path without suffix.
        title: title of the figure.
    """
    records, lost = [], []
    for model, of_model in frame.groupby("model", sort=False):
        for arm, group in of_model.groupby("arm", sort=False):
            known = group.dropna(subset=["value"])
            absent = sorted(set(of_model["task"]) - set(known["task"]))
            notes = [f"{task}: {note}" for task, note in zip(group["task"], group["note"], strict=True) if note]
            notes += [f"{task}: no run" for task in absent if task not in set(group["task"])]
            tasks = known["task"].nunique()
            record = {"model": model, "arm": arm, "tasks": tasks, "n_seeds": 0, "n_items": 0, "note": "; ".join(notes)}
            if absent:
                lost.append(f"{arm} on {model} (no score on {', '.join(absent)})")
                record["status"] = "failed" if (group["status"] == "failed").any() else "missing"
            else:
                value = known["value"].mean()
                below, above = (np.sqrt(((known[end] - known["value"]) ** 2).sum()) / tasks for end in ("low", "high"))
                record |= {
                    "value": value, "low": value - below, "high": value + above,
                    "trained_params": known["trained_params"].mean(), "seconds": known["seconds"].mean(),
                    "n_seeds": int(known["n_seeds"].min()), "n_items": int(known["n_items"].sum()),
                    "status": "partial" if notes else "ok",
                }  # fmt: skip
            records.append(record)
    means = pd.DataFrame(records, columns=[
        "model", "arm", "tasks", "value", "low", "high", "trained_params", "seconds", "n_seeds", "n_items", "status",
        "note",
    ])  # fmt: skip
    models, drawn = list(frame["model"].unique()), dict[str, Any]()
    with figure_style():
        figure = Figure(figsize=(7.4, 2.7 * len(models) + 1.4), layout="constrained")
        set_title(figure, title)
        grid = figure.subplots(len(models), 2, squeeze=False)
        arms = list(dict.fromkeys(frame["arm"]))
        for row, model in zip(grid, models, strict=True):
            for axes, (column, label) in zip(
                row, (("trained_params", "trained parameters"), ("seconds", "seconds to localize and fit")), strict=True
            ):
                of_model = means[(means["model"] == model) & means["value"].notna()]
                _pareto_panel(axes, of_model, column, arms, drawn)
                if (of_model[column] > 0).any():
                    _log_axis(axes, EngFormatter(sep=""))
                axes.set_xlabel(label)
                axes.set_ylabel("mean headline score (%)")
                axes.set_title(str(model))
        caption = _caption(
            means, f"Bars: 95% interval {UNITS}. Dashed: without cost. Grey steps: no cheaper one scores as high."
        )
        if lost:
            caption += f" Not drawn: {'; '.join(lost)}; the CSV says why."
        _finish(figure, drawn, caption)
        return save_with_csv(figure, means, stem)


class _LogLabels(LogFormatter):
    """Labels the ticks that :class:`LogFormatter` does, but with all digits: it calls both 0.015 and 0.016 "2e-02"."""

    def __init__(self, label: Callable[[float], str]) -> None:
        super().__init__(minor_thresholds=(1, 0.4))
        self.label = label

    def __call__(self, x: float, pos: int | None = None) -> str:
        return self.label(x) if super().__call__(x, pos) else ""


def _log_axis(axes: Axes, label: Callable[[float], str]) -> None:
    """Make the horizontal axis of ``axes`` logarithmic; ``label`` writes the number at a tick."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_LogLabels(label))
    axes.xaxis.set_minor_formatter(_LogLabels(label))


def _pareto_panel(axes: Axes, means: pd.DataFrame, column: str, arms: list[str], drawn: dict[str, Any]) -> None:
    """Draw points with error bars, which are added to ``drawn``, and the Pareto front; what costs nothing is a line."""
    shown, free = means[means[column] > 0], means[~(means[column] > 0)]
    for line in shown.to_dict("records"):
        look = line_style(arms.index(line["arm"])) | {"linestyle": "none"}
        bars = 100 * np.array([[line["value"] - line["low"]], [line["high"] - line["value"]]])
        drawn[line["arm"]] = axes.errorbar(
            line[column], 100 * line["value"], bars, markersize=6, elinewidth=0.8, capsize=2, **look
        )
    front = pareto_front(means, column)
    axes.step(front[column], 100 * front["value"], where="post", color="0.6", linewidth=0.8, zorder=0)
    for value in free["value"]:
        axes.axhline(100 * value, color="0.4", linestyle="--", linewidth=0.8)
    apart = 0.05 * (means["high"].max() - means["low"].min())
    for value, names in level_names(free["arm"], free["value"], apart):
        axes.annotate(
            names, (0.99, 100 * value), (0, 1.5), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
            fontsize=6.5, color="0.3", ha="right", va="bottom",
        )  # fmt: skip
    axes.grid(alpha=0.25, linewidth=0.5)


def pareto_front(means: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the lines of arms with a cost in ``column`` than which no cheaper one scores at least as high, by cost."""
    ordered = means.sort_values([column, "value"], ascending=[True, False], na_position="first")
    best = ordered["value"].cummax().shift(fill_value=-math.inf)
    return ordered[(ordered["value"] > best) & (ordered[column] > 0)]


def level_names(names: Iterable[str], values: Iterable[float], apart: float) -> list[tuple[float, str]]:
    """Return where to name horizontal lines: the names of lines less than ``apart`` stand together at the highest."""
    found: list[tuple[float, str]] = []
    for value, name in sorted(zip(values, names, strict=True)):
        if found and value - found[-1][0] < apart:
            found[-1] = value, f"{found[-1][1]}, {name}"
        else:
            found.append((value, name))
    return found


def draw_disturbance(frame: pd.DataFrame, stem: Path, *, title: str) -> list[Path]:
    """Draw scores against how far the model's predictions moved, as ``<stem>.pdf``, ``.png`` and ``.csv``.

    There is one panel for each model, task fitted for, task scored on and kind of text on which predictions are
    compared. A method that moves nothing, such as the base model, is a dashed line.

    Args:
        frame: as :func:`lofit.report.disturbance.disturbance` returns it.
        stem: path without suffix.
        title: title of the figure.
    """
    panels = list(frame.groupby(["model", "task", "scored_on", "moved_on"], sort=False))
    methods, drawn = list(dict.fromkeys(frame["method"])), dict[str, Any]()
    with figure_style():
        figure, grid = panels_of(max(1, len(panels)), title)
        for axes, ((model, task, on, kind), panel) in zip(grid, panels, strict=False):
            for line in panel.to_dict("records"):
                if not line["kl"] > 0:
                    level = axes.axhline(100 * line["value"], color="0.4", linestyle="--", linewidth=0.8)
                    drawn[f"{line['method']} (moves nothing)"] = level
                    continue
                look = {**line_style(methods.index(line["method"])), "linestyle": "none"}
                up = 100 * np.array([[line["value"] - line["low"]], [line["high"] - line["value"]]])
                below = line["kl"] - line["kl_low"] if line["kl_low"] > 0 else 0
                drawn[line["method"]] = axes.errorbar(
                    line["kl"], 100 * line["value"], up, np.array([[below], [line["kl_high"] - line["kl"]]]),
                    markersize=5, elinewidth=0.8, capsize=2, **look,
                )  # fmt: skip
                if not line["kl_low"] > 0:  # the axis has no 0: the bar leaves it on the left
                    beside = blended_transform_factory(axes.transAxes, axes.transData)
                    axes.annotate(
                        "", (0, 100 * line["value"]), (line["kl"], 100 * line["value"]), xycoords=beside,
                        textcoords="data", arrowprops={"arrowstyle": "->", "color": look["color"], "linewidth": 0.8},
                    )  # fmt: skip
            if (panel["kl"] > 0).any():
                _log_axis(axes, "{:g}".format)
            axes.set_title(f"{model},\nfitted for {task}")
            axes.set_xlabel(f"KL to base (nats/token)\non {kind}")
            axes.set_ylabel(f"{on} {panel['metric'].iloc[0]} (%)")
            axes.grid(alpha=0.25, linewidth=0.5)
        _finish(figure, drawn, _caption(frame, f"Bars: 95% intervals {UNITS}; those with an arrow reach 0."))
        return save_with_csv(figure, frame, stem)


def draw_recall(frame: pd.DataFrame, stem: Path, *, title: str, setting: list[str]) -> list[Path]:
    """Draw recall of planted heads against the number of heads, as ``<stem>.pdf``, ``.png`` and ``.csv``.

    There is one panel for each combination of the columns ``setting``, of which its title has those that differ. Random
    heads are a dashed line.

    Args:
        frame: columns ``setting``, ``arm``, ``n``, ``recall``, ``recall_low``, ``recall_high``, ``chance``, ``draws``.
        stem: path without suffix.
        title: title of the figure.
        setting: what tells panels apart.
    """
    panels, arms = list(frame.groupby(setting, sort=False)), list(dict.fromkeys(frame["arm"]))
    told = [name for name in setting if frame[name].nunique() > 1]
    drawn: dict[str, Any] = {}
    with figure_style():
        figure, grid = panels_of(max(1, len(panels)), title)
        for axes, (_, panel) in zip(grid, panels, strict=False):
            for arm, line in panel.groupby("arm", sort=False):
                style = line_style(arms.index(str(arm))) | {"marker": "none", "label": str(arm), "linewidth": 1.2}
                [drawn[str(arm)]] = axes.plot(line["n"], 100 * line["recall"], **style)
            chance = panel.drop_duplicates("n")
            [drawn["chance"]] = axes.plot(chance["n"], 100 * chance["chance"], color="0.5", linestyle="--", lw=0.8)
            _log_axis(axes, "{:g}".format)
            axes.set_title(", ".join(f"{name} {panel[name].iloc[0]}" for name in told))
            axes.set_xlabel("heads, best first")
            axes.set_ylabel("planted heads among them (%)")
            axes.grid(alpha=0.25, linewidth=0.5)
        note = "Means over draws of the damaged heads; intervals are in the CSV."
        _finish(figure, drawn, f"n = {span(frame['draws'], 'draw')}. {note}" if len(frame) else "No ranking to draw.")
        return save_with_csv(figure, frame, stem)


def panels_of(n: int, title: str) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``n`` panels, three in a row."""
    across = min(n, _ACROSS)
    down = math.ceil(n / across)
    figure = Figure(figsize=(max(5.0, 2.9 * across), 2.5 * down + 1.3), layout="constrained")
    set_title(figure, title)
    grid = list(figure.subplots(down, across, squeeze=False).flat)
    for axes in grid[n:]:
        axes.remove()
    return figure, grid


def span(values: pd.Series, what: str) -> str:
    """Return the range of some counts as text for a caption, for example ``2 to 3 seeds``."""
    low, high = int(values.min()), int(values.max())
    return f"{low if low == high else f'{low} to {high}'} {what}{'' if high == 1 else 's'}"


def _caption(frame: pd.DataFrame, note: str) -> str:
    known = frame[frame["n_seeds"] > 0]
    if known.empty:
        return "No score to draw."
    return f"n = {span(known['n_items'], 'test item')}, {span(known['n_seeds'], 'seed')}. {note}"


def _finish(figure: Figure, drawn: dict[str, Any], caption: str) -> None:
    """Add one legend for all panels, and the caption.

    The legend entries are collected in ``drawn``, since matplotlib's automatic legend leaves out labels that begin with
    an underscore.
    """
    width = figure.get_figwidth()
    lines, columns = textwrap.wrap(caption, int(width * 15)), max(1, min(len(drawn), int(width / 1.6)))
    rows = math.ceil(len(drawn) / columns)
    # So that panels keep their height; figures have room for two lines and two rows, in inches.
    figure.set_figheight(figure.get_figheight() + 0.14 * max(0, len(lines) - 2) + 0.2 * max(0, rows - 2))
    figure.set_label(caption)
    figure.legend(
        list(drawn.values()), list(drawn), loc="outside lower center", ncols=columns, frameon=False,
        title="\n".join(lines), title_fontsize=8, fontsize=8,
    )  # fmt: skip


def save_with_csv(figure: Figure, frame: pd.DataFrame, stem: Path) -> list[Path]:
    """Write ``<stem>.pdf`` and ``.png``, and the numbers behind them as ``.csv``; return the three paths."""
    paths = save_figure(figure, stem)
    table = stem.parent / f"{stem.name}.csv"
    with atomic_path(table) as part:
        frame.to_csv(part, index=False)
    return [*paths, table]
