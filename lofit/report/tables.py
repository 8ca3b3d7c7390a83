"""The main table (methods by tasks) as CSV, Markdown and LaTeX, and on the terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lofit.files import atomic_path, write_text
from lofit.report.cells import aggregate, complete_rows, folds_by_task, headline_rows
from lofit.report.plain import DAGGER, escape_pipe, latex_table, latex_text
from lofit.report.significance import TEST, compared_with_best, leads
from lofit.spec.protocol import COUNTED
from lofit.stats import seed_interval

MISSING = "-"
FAILED = "failed"
OUTERMOST = "outermost rate"
ROUGH_BELOW = 5
"""With fewer seeds, intervals over seeds are called rough: their spread is estimated from too few values."""
_NOTE_WIDTH = 200


def main_table(results: pd.DataFrame, headline: Mapping[str, str], items: pd.DataFrame) -> pd.DataFrame:
    """Build the table that compares methods: one row per model and method variant, one column per task.

    Folds are averaged unweighted within a seed. The value is the mean over seeds, with its interval in brackets. A seed
    counts only if all its folds have a value. Runs with heads selected on
    another task are left out if the method also has a run with heads selected on the task itself.

    A variant is the method with its number of heads, and with its selector and number of training examples if these
    differ between runs, so that no cell averages over them. A column ``variant`` in ``results`` overrides these names.

    Args:
        results: tidy results, as ``collect`` writes them; values of headline metrics are fractions.
        headline: task to headline metric; its order is the order of the columns.
        items: the scores of every test item, as ``collect_items`` writes them.

    Returns:
        Text columns ``model``, ``method``, one per task (percent with its interval, ``failed``, or ``-`` if there is no
        run; ``†`` marks fewer seeds than the row has), ``seeds`` (Int64), ``tuned`` (``no``, or the number of settings
        compared on validation data; shown only if some method was tuned) and ``trained parameters``; then per task
        ``<task>.percent`` and ``<task>.percent_std`` (float64, unrounded; the standard deviation over seeds),
        ``<task>.seed_low`` and ``<task>.seed_high`` (95% interval of Student's t over seeds, NaN for one seed),
        ``<task>.percent_low`` and ``<task>.percent_high`` (95% interval over clusters of test items and over seeds),
        ``<task>.p_best`` (see ``compared_with_best``), ``<task>.seeds`` (int64), ``<task>.metric`` and
        ``<task>.protocol``; then ``settings`` (Int64; number of planned settings), ``trained_params.min`` and ``.max``
        (Int64) and ``note``.

    Raises:
        ReportError: see ``headline_rows``; also if two runs have the same cell, seed and fold.
    """
    rows = headline_rows(results, headline)
    if "variant" not in rows:
        rows = rows[~transferred(rows)]
        rows = rows.assign(variant=variant_names(rows))
    found = cells(rows, headline, items)
    runs = {key: group for key, group in rows.groupby(["model", "variant"], sort=False)}
    records = [_line(runs[key], group) for key, group in found.groupby(["model", "method"], sort=False)]
    frame = pd.DataFrame(records)
    text = ["model", "method", *headline, "seeds", "tuned", "trained parameters"]
    frame = frame[text + [name for name in frame.columns if name not in text]]
    whole = {"seeds", "settings", "trained_params.min", "trained_params.max"}
    return frame.astype({name: "Int64" for name in whole})


def cells(rows: pd.DataFrame, headline: Mapping[str, str], items: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers of a table, one row per cell: what is shown of them is formatted last.

    Args:
        rows: as ``headline_rows`` gives them, with ``variant``.
        headline: task to headline metric.
        items: the scores of every test item.

    Returns:
        ``model``, ``method`` (the variant), ``task``, ``metric``, ``protocol``, ``status`` and ``note`` (see
        :class:`lofit.report.cells.Cell`), ``seeds``, and in percent ``percent``, ``percent_std``, ``seed_low``,
        ``seed_high``, ``percent_low``, ``percent_high``; and ``p_best`` (see ``compared_with_best``).
    """
    folds = folds_by_task(rows)
    protocols = dict(zip(rows["task"].astype(str), rows["protocol"].astype(str), strict=True))
    groups = {key: group for key, group in rows.groupby(["model", "variant"], sort=False)}
    records = []
    for model, variant in product(rows["model"].unique(), rows["variant"].unique()):
        group = groups.get((model, variant))
        if group is None:
            continue
        seeds = {int(seed) for seed in group["seed"]}
        for task, metric in headline.items():
            cell = aggregate(group[group["task"] == task], folds.get(task, set()), seeds)
            over_seeds = seed_interval([100 * value for value in cell.by_seed.values()])
            records.append(
                {
                    "model": str(model),
                    "method": str(variant),
                    "task": task,
                    "percent": 100 * cell.value,
                    "percent_std": 100 * cell.std,
                    "seed_low": over_seeds.low,
                    "seed_high": over_seeds.high,
                    "seeds": cell.n_seeds,
                    "metric": metric,
                    "protocol": protocols.get(task, MISSING),
                    "status": cell.status,
                    "note": cell.note,
                }
            )
    return compared_with_best(pd.DataFrame(records), complete_rows(rows, ["model", "variant", "task"]), items)


def write_table(frame: pd.DataFrame, stem: Path, title: str = "") -> list[Path]:
    """Write a table of ``main_table`` as ``<stem>.csv`` (all columns), ``<stem>.md`` and ``<stem>.tex``.

    Markdown and LaTeX hold the text columns. The best value per model and task is bold, and so are the values that do
    not differ significantly from it; nothing is bold if there is nothing to compare. The LaTeX file is a ``table``
    environment that needs the packages ``booktabs`` and ``graphicx``.

    Args:
        frame: the table.
        stem: path without suffix.
        title: printed above the Markdown table and first in the LaTeX caption.

    Returns:
        The three paths.
    """
    paths = [stem.parent / f"{stem.name}{suffix}" for suffix in (".csv", ".md", ".tex")]
    with atomic_path(paths[0]) as part:
        frame.to_csv(part, index=False)
    write_text(paths[1], (f"**{escape_pipe(title)}**\n\n" if title else "") + _markdown(frame))
    write_text(paths[2], _latex(frame, label=stem.name, title=title))
    return paths


def print_table(frame: pd.DataFrame, console: Console | None = None) -> None:
    """Print a table of ``main_table`` and its notes to the terminal (or to ``console``)."""
    console = console or Console()
    shown, best = _shown(frame), _best(frame)
    names = [name for name in shown.columns if name != "model"]
    for model in shown["model"].unique():
        table = Table(title=Text(model), title_justify="left", box=box.SIMPLE_HEAD)
        for name in names:
            table.add_column(Text(name), justify="left" if name == "method" else "right", overflow="fold")
        for position in shown.index[shown["model"] == model]:
            bold = [name in best.columns and bool(best.loc[position, name]) for name in names]
            texts = [str(shown.loc[position, name]).replace(" [", "\n[") for name in names]  # intervals on a line each
            table.add_row(*[Text(text, "bold" if strong else "") for text, strong in zip(texts, bold, strict=True)])
        console.print(table)
    for line in [_legend(frame), *_notes(frame)]:
        console.print(Text(line))


def transferred(rows: pd.DataFrame) -> pd.Series:
    """Return which rows belong to the transfer heat map only.

    These have heads selected on another task, while the same method also has a run with heads of the task itself.
    """
    own = rows["head_task"] == rows["task"]
    keys = ["model", "method", "selector", "n_heads", "task"]
    has_own = own.groupby([rows[key] for key in keys], dropna=False).transform("any")
    return rows["head_task"].notna() & ~own & has_own


def variant_names(rows: pd.DataFrame) -> list[str]:
    """Return a name for the method of each row that includes what distinguishes its runs.

    This is the number of heads, the selector if the method has several, and the number of examples if it varies. If a
    method uses heads selected on another task, its name includes the task of the heads in all rows.
    """
    selectors = rows.groupby("method")["selector"].nunique()
    foreign = set(rows.loc[rows["head_task"].notna() & (rows["head_task"] != rows["task"]), "method"])
    sized = bool((rows.groupby(["model", "task", "fold"])["n_train"].nunique() > 1).any())
    labels = []
    for row in rows.to_dict("records"):
        parts = []
        if pd.notna(row["n_heads"]):
            of = f" of {row['head_task']}" if row["method"] in foreign else ""
            parts.append(f"{int(row['n_heads'])} head{'' if row['n_heads'] == 1 else 's'}{of}")
        if pd.notna(row["selector"]) and selectors[row["method"]] > 1:
            parts.append(f"selected by {row['selector']}")
        if sized:
            parts.append(f"{int(row['n_train'])} examples")
        labels.append(f"{row['method']} ({', '.join(parts)})" if parts else str(row["method"]))
    return labels


_NUMBERS = (
    *("percent", "percent_std", "percent_low", "percent_high", "seed_low", "seed_high"),
    *("p_best", "seeds", "metric", "protocol"),
)
"""Columns of the cells that the CSV has, for each task."""


def _line(runs: pd.DataFrame, of_line: pd.DataFrame) -> dict[str, Any]:
    """Return one line of the table, text and numbers, from its runs and its cells."""
    trained, extended = runs["trained_params"].dropna(), runs["extended"].max()
    low, high = (int(trained.min()), int(trained.max())) if len(trained) else (None, None)
    first = of_line.iloc[0]
    line: dict[str, Any] = {"model": first["model"], "method": first["method"], "seeds": runs["seed"].nunique()}
    line["settings"] = (runs["tried"] - runs["extended"]).max()
    beyond = f", {extended} beyond the grid" if pd.notna(extended) and extended else ""
    tried = sorted({int(n) for n in runs["tried"].dropna()})
    beyond += f", {OUTERMOST}" if runs["outermost"].any() else ""
    span = " to ".join(map(str, dict.fromkeys((tried[0], tried[-1])))) if tried else ""
    line["tuned"] = f"best of {span}{beyond}" if tried and tried[-1] > 1 else "no"
    if low is None:
        line["trained parameters"] = MISSING
    else:
        line["trained parameters"] = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    notes = []
    for cell in of_line.to_dict("records"):
        task = cell["task"]
        line[task] = cell_text(cell)
        line |= {f"{task}.{name}": cell[name] for name in _NUMBERS}
        if cell["note"]:
            notes.append(f"{task}: {cell['note']}")
        notes += [f"{task}: {remark}" for remark in remarks(runs[runs["task"] == task])]
    return line | {"trained_params.min": low, "trained_params.max": high, "note": "; ".join(notes)}


def remarks(rows: pd.DataFrame) -> list[str]:
    """Return remarks on the items of some evaluations, with counts; see :data:`lofit.spec.protocol.COUNTED`."""
    total = int(rows["n_items"].sum())
    counts = {name: int(rows[name].sum()) for name in COUNTED}
    return [f"{counts[name]:,} of {total:,} items {said}" for name, said in COUNTED.items() if counts[name]]


def cell_text(cell: Mapping[Any, Any]) -> str:
    """Return what a table shows of one line of :func:`cells`: percent with its interval, or why there is none."""
    if cell["status"] in ("failed", "missing"):
        return FAILED if cell["status"] == "failed" else MISSING
    known = not math.isnan(cell["percent_low"])
    interval = f" [{cell['percent_low']:.1f}, {cell['percent_high']:.1f}]" if known else ""
    return f"{cell['percent']:.1f}{interval}{DAGGER if cell['status'] == 'partial' else ''}"


def _tasks(frame: pd.DataFrame) -> list[str]:
    return [name.removesuffix(".percent") for name in frame.columns if name.endswith(".percent")]


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    tuned = ["tuned"] if (frame["tuned"] != "no").any() else []
    return frame[["model", "method", *_tasks(frame), "seeds", *tuned, "trained parameters"]].astype(str)


def _best(frame: pd.DataFrame) -> pd.DataFrame:
    """Mark the best value of each task (columns) within each model, and the values that do not differ significantly.

    Returns:
        Booleans aligned with ``frame``; nothing is marked if there is nothing to compare.
    """
    best = pd.DataFrame(index=frame.index)
    for task in _tasks(frame):
        numbers = {name: frame[f"{task}.{name}"] for name in ("percent", "p_best")}
        cells = frame[["model"]].assign(task=task, **numbers)
        best[task] = leads(cells) & (cells.groupby("model")["percent"].transform("count") > 1)
    return best


def _legend(frame: pd.DataFrame) -> str:
    metrics = [f"{task} {frame[f'{task}.metric'].iloc[0]}" for task in _tasks(frame)]
    protocols = [frame[f"{task}.protocol"].iloc[0] for task in _tasks(frame)]
    if len(set(protocols)) == 1:
        columns = f"{', '.join(metrics)}; protocol {protocols[0]}"
    else:
        columns = ", ".join(f"{metric} (protocol {name})" for metric, name in zip(metrics, protocols, strict=True))
    return (
        f"Percent: {columns}. Folds are averaged within a seed, then seeds; in brackets the 95% interval "
        f"{_units(frame)}. {DAGGER} fewer seeds than the row has, {MISSING} no run. "
        f"Bold: the best of a model, and what does not differ from it ({TEST}).{_budgets(frame)}"
    )


def _budgets(frame: pd.DataFrame) -> str:
    """Return warnings where methods were tuned with unequal budgets, or may be better with another learning rate."""
    warning = ""
    if "settings" in frame and frame["settings"].nunique() > 1:
        low, high = frame["settings"].min(), frame["settings"].max()
        warning += f" Unequal budgets of tuning: methods chose from {low} to {high} settings."
    if frame["tuned"].str.contains(OUTERMOST).any():
        warning += f" {OUTERMOST.capitalize()}: the lowest or highest that was tried, so a better one may lie beyond."
    return warning


def _units(frame: pd.DataFrame) -> str:
    """Return what the intervals are over, and a warning where they are rough."""
    seeds = [int(count) for task in _tasks(frame) for count in frame[f"{task}.seeds"] if count > 0]
    if not seeds or max(seeds) == 1:
        return "over clusters of test items, for the one seed that was run"
    fewest = min(count for count in seeds if count > 1)
    rough = f" (rough: {fewest} seeds)" if fewest < ROUGH_BELOW else ""
    return f"over clusters of test items and over seeds{rough}"


def _notes(frame: pd.DataFrame) -> list[str]:
    return [
        textwrap.shorten(f"{model}, {method}: {note}", _NOTE_WIDTH, placeholder=" ...")
        for model, method, note in zip(frame["model"], frame["method"], frame["note"], strict=True)
        if note
    ]


def _markdown(frame: pd.DataFrame) -> str:
    shown, best = _shown(frame), _best(frame)
    for task in best.columns:
        shown[task] = shown[task].mask(best[task], "**" + shown[task] + "**")
    shown = shown.map(escape_pipe).rename(columns=escape_pipe)
    align = ["left" if name in ("model", "method") else "right" for name in shown.columns]
    body = shown.to_markdown(index=False, disable_numparse=True, colalign=align)
    notes = "".join(f"- {escape_pipe(note)}\n" for note in _notes(frame))
    return f"{body}\n\n{_legend(frame)}\n" + (f"\n{notes}" if notes else "")


def _latex(frame: pd.DataFrame, label: str, title: str = "") -> str:
    shown, best = _shown(frame), _best(frame)
    bold = best.reindex(columns=shown.columns, fill_value=False)
    style = shown.style.hide(axis="index")
    style = style.format(latex_text).format_index(latex_text, axis=1)
    style = style.apply(lambda _: bold.replace({True: "textbf: --rwrap", False: ""}), axis=None)
    columns = "".join("l" if name in ("model", "method") else "r" for name in shown.columns)
    tabular = style.to_latex(hrules=True, column_format=columns)
    notes = "".join(f"\\par {latex_text(note)}\n" for note in _notes(frame))
    legend = _legend(frame)
    return latex_table(tabular, f"{title}. {legend}" if title else legend, label, notes)
