"""Arms of an experiment against each other, on the same test items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from lofit.errors import ConfigError, ReportError
from lofit.report.cells import headline_rows
from lofit.report.differences import paired
from lofit.report.experiments import arm_rows
from lofit.report.items import item_scores
from lofit.report.paths import headline, items_path
from lofit.runs import RunTable
from lofit.stats import holm, paired_sample, permutation_p

COLUMNS = ["model", "task", "x", "arm", "against", "difference", "low", "high", "p", "p_holm", "items"]


def compare(table: RunTable, name: str, against: str | None = None) -> pd.DataFrame:
    """Compare every two arms of an experiment, or all with one; see :func:`pairs`.

    A curve of a single arm is compared with itself at other places.

    Raises:
        ConfigError: ``name`` is no experiment that has scores, or ``against`` none of its arms.
        ReportError: it has not been run, or there is nothing to compare.
    """
    known = [each for each in table.config.experiments if table.config.experiment(each).kind != "layers"]
    if name not in known:
        raise ConfigError(f"no experiment '{name}' with scores; this configuration has: {', '.join(known) or 'none'}")
    rows = by_place(headline_rows(arm_rows(table, name), headline(table)))
    arms = list(rows["variant"].unique())
    if against is not None and against not in arms:
        raise ConfigError(f"experiments.{name} has no arm '{against}'; it has: {', '.join(arms)}")
    found = pairs(rows, pd.read_parquet(items_path(table, name)), against)
    if found.empty:
        raise ReportError(f"experiments.{name}: no two runs of it have scores on the same items")
    return found


def by_place(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, with the places of a curve for its arms where it has one arm only."""
    if rows["variant"].nunique() > 1 or rows["x"].nunique() < 2:
        return rows
    return rows.assign(variant=rows["x"].map("{:g}".format), x=np.nan)


def pairs(rows: pd.DataFrame, items: pd.DataFrame, against: str | None = None) -> pd.DataFrame:
    """One row per model, task, place on the axis of a curve, and two arms.

    An item's score is its mean over the seeds; the items of all folds are pooled, and those that share a context are
    drawn together.

    Args:
        rows: headline rows with ``variant`` (the arm) and ``x`` (the place; NaN where there is no axis).
        items: as ``collect_items`` writes them.
        against: compare with this arm alone.

    Returns:
        ``model``, ``task``, ``x``, ``arm``, ``against``; their ``difference`` in percentage points with ``low`` and
        ``high``, the 95% interval over items; ``p`` of a two-sided paired permutation test; ``p_holm``, the same
        corrected for all rows of the model; ``items``.
    """
    scores = item_scores(rows[rows["status"] == "ok"], items)
    rng = np.random.default_rng(0)
    records = []
    for (model, task, x), group in scores.groupby(["model", "task", "x"], sort=False, dropna=False):
        arms = {str(arm): lines for arm, lines in group.groupby("variant", sort=False)}
        for one, other in _chosen(arms, against):
            difference = paired(arms[one], arms[other])
            value, width = 100 * difference.value, 100 * difference.half_width
            p = permutation_p(paired_sample(arms[one], arms[other]), rng)
            records.append([model, task, x, one, other, value, value - width, value + width, p, p, difference.n_items])
    frame = pd.DataFrame(records, columns=COLUMNS)
    for _, lines in frame.groupby("model"):
        frame.loc[lines.index, "p_holm"] = holm(list(lines["p"]))
    return frame


def _chosen(arms: Mapping[str, pd.DataFrame], against: str | None) -> Iterator[tuple[str, str]]:
    if against is None:
        yield from combinations(arms, 2)
    elif against in arms:
        yield from ((arm, against) for arm in arms if arm != against)


def markdown(frame: pd.DataFrame) -> str:
    """The comparison as a Markdown table, with a line on what it says."""
    shown = frame[["model", "task", "x", "arm", "against"]].assign(
        x=frame["x"].map("{:g}".format),
        difference=[
            f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
            for value, low, high in zip(frame["difference"], frame["low"], frame["high"], strict=True)
        ],
        p=frame["p"].map("{:.4f}".format),
        corrected=frame["p_holm"].map("{:.4f}".format),
        items=frame["items"],
    )
    if frame["x"].isna().all():
        shown = shown.drop(columns="x")
    note = (
        "Percentage points with the 95% interval over test items; p of a two-sided paired permutation test, and "
        "corrected (Holm) for all rows of the model."
    )
    return f"{shown.to_markdown(index=False, disable_numparse=True)}\n\n{note}"
