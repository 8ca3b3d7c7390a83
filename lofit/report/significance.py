"""Confidence intervals, and tests of each method against the best one."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from lofit.report.items import item_interval, item_scores
from lofit.stats import by_seed, difference_p, holm, paired_sample

ALPHA = 0.05
UNITS = "over clusters of test items and, with several seeds, over seeds"
"""What all intervals are over, for legends."""
TEST = f"paired t-test over clusters of items and seeds, Holm-corrected over all pairs of methods, at {ALPHA:.0%}"


def compared_with_best(cells: pd.DataFrame, rows: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Add confidence intervals, and the p-value of each method's difference to the best method.

    The best method is chosen on the data on which it is then compared. The p-values are therefore corrected as if every
    two methods of the model were compared on the task, whichever of them turns out best: among equal methods, one is
    told from the best in at most 5% of tables (tests/unit/stats simulates it).

    Args:
        cells: one row per ``model``, ``method`` and ``task``, with ``percent``.
        rows: headline rows of the runs behind them, with ``variant`` (the name of the method in ``cells``).
        items: as ``collect_items`` writes them.

    Returns:
        The cells with ``percent_low`` and ``percent_high``, the 95% confidence interval over clusters of test items and
        over seeds, and ``p_best``, the p-value of the difference to the best method on the task (paired t-test,
        Holm-corrected over all pairs of methods of the model on the task). ``p_best`` is NaN for the best method and
        where there is nothing to test.
    """
    scores = item_scores(rows, items)
    found = {key: by_seed(group) for key, group in scores.groupby(["model", "variant", "task"], sort=False)}
    cells = cells.assign(percent_low=np.nan, percent_high=np.nan, p_best=np.nan)
    for _, group in cells.groupby(["model", "task"], sort=False):
        keys = zip(group["model"], group["method"], group["task"], strict=True)
        known = {i: found.get(key) for i, key in zip(group.index, keys, strict=True)}
        tables = {i: table for i, table in known.items() if table is not None and pd.notna(group["percent"][i])}
        for i, table in tables.items():
            interval = item_interval(table, group["percent"][i] / 100)
            cells.loc[i, ["percent_low", "percent_high"]] = 100 * interval.low, 100 * interval.high
        if len(tables) < 2:
            continue
        best = group["percent"].idxmax()
        pairs = list(combinations(tables, 2))
        p_values = holm([difference_p(paired_sample(tables[one], tables[other])) for one, other in pairs])
        for (one, other), p in zip(pairs, p_values, strict=True):
            if best in (one, other):
                cells.loc[other if one == best else one, "p_best"] = p
    return cells


def leads(cells: pd.DataFrame) -> pd.Series:
    """Return which cells are the best on a task, or do not differ significantly from it: bool, aligned with ``cells``.

    Args:
        cells: one row per ``model``, ``method`` and ``task``, with ``percent`` and ``p_best``.
    """
    best = cells["percent"] == cells.groupby(["model", "task"])["percent"].transform("max")
    return best | (cells["p_best"] > ALPHA)
