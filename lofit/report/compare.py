"""Compare arms of an experiment with each other on the same test items (``lofit compare``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from lofit import registry
from lofit.errors import ConfigError, ReportError
from lofit.plan.table import MAIN, RunTable
from lofit.report.cells import aggregate, complete_rows, folds_by_task, headline_rows
from lofit.report.differences import Difference, mean_of, paired
from lofit.report.experiments import arm_rows
from lofit.report.items import item_scores
from lofit.report.parts import read_part
from lofit.report.paths import headline, items_path
from lofit.report.plain import escape_pipe
from lofit.report.significance import UNITS
from lofit.report.tables import transferred, variant_names
from lofit.spec.protocol import Protocol
from lofit.stats import by_seed, difference_p, holm, paired_sample

KINDS = ("table", "curve", "pareto")
"""Kinds of experiments with one score per arm, task, fold, seed and point of a curve."""
COLUMNS = ["model", "task", "metric", "x", "arm", "against", "difference", "low", "high", "p", "p_holm", "items"]
_PLACE = ["model", "task", "x"]


def compare(
    table: RunTable, name: str, against: str | None = None, *, every_pair: bool = False
) -> tuple[pd.DataFrame, list[str]]:
    """Compare all arms of an experiment, or all methods of the main comparison, with one, or every two.

    If a curve has a single arm, its points are compared with each other.

    Args:
        table: the run table of the configuration.
        name: name of the experiment; or ``main``.
        against: the arm to compare with, or a part of its name that no other has; None: the experiment's primary arm,
            or every two arms if it has none.
        every_pair: compare every two arms, although there is a primary one.

    Returns:
        The table of :func:`pairs`, and one line for each absent result with the reason.

    Raises:
        ConfigError: ``name`` is no experiment with scores, or ``against`` names none of its arms, or several.
        ReportError: the experiment has not been run, or there is nothing to compare.
    """
    known = [each for each in table.config.experiments if table.config.experiment(each).kind in KINDS]
    if name not in (MAIN, *known):
        raise ConfigError(f"no experiment '{name}' with scores; this configuration has: {', '.join([MAIN, *known])}")
    primary = None if name == MAIN else table.config.experiment(name).primary
    rows = by_place(
        headline_rows(
            main_rows(table, table.config.protocols[0]) if name == MAIN else arm_rows(table, name), headline(table)
        )
    )
    if against is not None:
        against = registry.matching(f"arm of {name}", against, rows["variant"])
    elif not every_pair and primary in set(rows["variant"]):
        against = primary
    absent = absences(rows)
    found = pairs(rows, pd.read_parquet(items_path(table, name)), against)
    if found.empty:
        raise ReportError(f"{name}: no two of its runs can be compared" + "".join(f"; {n}" for n in absent))
    return found, absent


def main_rows(table: RunTable, protocol: Protocol) -> pd.DataFrame:
    """Return results of the configured methods on the task they were fitted for, under a protocol, as experiments'."""
    results, _ = read_part(table, MAIN)
    own = (results["protocol"] == protocol) & (results["task"] == results["eval_task"])
    own &= results["task"].isin(headline(table, protocol))
    rows = results[own & ~transferred(results)]
    return rows.assign(variant=variant_names(rows), x=np.nan)


def by_place(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows; if a curve has one arm only, its points take the place of the arms."""
    if rows["variant"].nunique() > 1 or rows["x"].nunique() < 2:
        return rows
    return rows.assign(variant=rows["x"].map("{:g}".format), x=np.nan)


def absences(rows: pd.DataFrame) -> list[str]:
    """Return one line for each model, task and arm that lacks values, with the seeds and the reasons."""
    folds, found = folds_by_task(rows), []
    for (model, task, x, arm), group in rows.groupby([*_PLACE, "variant"], sort=False, dropna=False):
        cell = aggregate(group, folds[str(task)], {int(seed) for seed in group["seed"]})
        if cell.note:
            found.append(f"{model}, {task}, {arm}{f' at {x:g}' if group['x'].notna().all() else ''}: {cell.note}")
    return found


def pairs(rows: pd.DataFrame, items: pd.DataFrame, against: str | None = None) -> pd.DataFrame:
    """Return the paired differences between arms: one row per model, task, point of a curve, and pair of arms.

    Only seeds count that have a value in every fold, of both arms. Items that share a context form a cluster.

    Args:
        rows: headline rows with ``variant`` (the arm) and ``x`` (the point of the curve; NaN without an axis).
        items: as ``collect_items`` writes them.
        against: compare with this arm only; None: every two arms.

    Returns:
        ``model``, ``task``, its headline ``metric``, ``x``, ``arm`` and ``against``; ``difference``, the mean over
        folds in percentage points, with its 95% confidence interval over clusters of items and over seeds, ``low`` to
        ``high``; ``p``, the p-value of a paired t-test over the items of all folds; ``p_holm``, the same corrected for
        all rows of the model; and ``items``, the number of items.
    """
    scores = item_scores(complete_rows(rows, [*_PLACE, "variant"]), items)
    records = []
    for (model, task, x), group in scores.groupby(_PLACE, sort=False, dropna=False):
        arms = {str(arm): lines for arm, lines in group.groupby("variant", sort=False)}
        tables = {arm: by_seed(lines) for arm, lines in arms.items()}
        for one, other in _chosen(arms, against):
            difference = _difference(arms[one], arms[other])
            value, width = 100 * difference.value, 100 * difference.half_width
            p = difference_p(paired_sample(tables[one], tables[other]))
            found: list[Any] = [model, task, group["metric"].iloc[0], x, one, other, value, value - width]
            records.append([*found, value + width, p, p, difference.n_items])
    frame = pd.DataFrame(records, columns=COLUMNS)
    for _, lines in frame.groupby("model"):
        frame.loc[lines.index, "p_holm"] = holm(list(lines["p"]))
    return frame


def _difference(one: pd.DataFrame, other: pd.DataFrame) -> Difference:
    folds = one["fold"].unique()
    return mean_of([paired(one[one["fold"] == fold], other[other["fold"] == fold]) for fold in folds])


def _chosen(arms: Mapping[str, pd.DataFrame], against: str | None) -> Iterator[tuple[str, str]]:
    if against is None:
        yield from combinations(arms, 2)
    elif against in arms:
        yield from ((arm, against) for arm in arms if arm != against)


def _p_text(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def markdown(frame: pd.DataFrame, absent: Sequence[str] = ()) -> str:
    """Return the comparison as a Markdown table, with a legend and the lines about absent results."""
    shown = frame[["model", "task", "metric", "x", "arm", "against"]].assign(
        x=frame["x"].map("{:g}".format),
        difference=[
            f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
            for value, low, high in zip(frame["difference"], frame["low"], frame["high"], strict=True)
        ],
        p=frame["p"].map(_p_text),
        corrected=frame["p_holm"].map(_p_text),
        items=frame["items"],
    )
    if frame["x"].isna().all():
        shown = shown.drop(columns="x")
    shown[["arm", "against"]] = shown[["arm", "against"]].map(escape_pipe)
    note = (
        f"Percentage points with the 95% interval {UNITS}; p of a two-sided paired "
        "t-test, and corrected (Holm) for all rows of the model."
    )
    lines = "".join(f"\n- {line}" for line in absent)
    return f"{shown.to_markdown(index=False, disable_numparse=True)}\n\n{note}" + (f"\n{lines}" if lines else "")
