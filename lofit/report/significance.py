"""Confidence intervals, and tests of each method against the best one."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lofit.report.items import item_interval, item_scores
from lofit.stats import holm, paired_sample, permutation_p

ALPHA = 0.05
TEST = f"paired permutation test over items, Holm-corrected over the tests of the model, at {ALPHA:.0%}"


def compared_with_best(cells: pd.DataFrame, rows: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Add confidence intervals, and the p-value of each method's difference to the best method.

    The score of an item is its mean over seeds; the items of all folds are pooled.

    Args:
        cells: one row per ``model``, ``method`` and ``task``, with ``percent``.
        rows: headline rows of the runs behind them, with ``variant`` (the name of the method in ``cells``).
        items: as ``collect_items`` writes them.

    Returns:
        The cells with ``percent_low`` and ``percent_high``, the 95% confidence interval over the test items, and
        ``p_best``, the p-value of the difference to the best method on the task (paired permutation test,
        Holm-corrected over all such tests of the model). ``p_best`` is NaN for the best method and where there is
        nothing to test.
    """
    scores = item_scores(rows, items)
    found: dict[tuple[str, str, str], pd.DataFrame] = {
        (str(model), str(variant), str(task)): group
        for (model, variant, task), group in scores.groupby(["model", "variant", "task"], sort=False)
    }
    rng = np.random.default_rng(0)
    cells = cells.assign(percent_low=np.nan, percent_high=np.nan, p_best=np.nan)
    keys = dict(zip(cells.index, zip(cells["model"], cells["method"], cells["task"], strict=True), strict=True))
    by_task = [group for _, group in cells.groupby("task", sort=False)]
    for i, percent in pd.concat(by_task)["percent"].items():
        group = found.get(keys[i])
        if group is not None and not pd.isna(percent):
            interval = item_interval(group, percent / 100, rng)
            cells.loc[i, ["percent_low", "percent_high"]] = 100 * interval.low, 100 * interval.high
    for _, of_model in cells.groupby("model", sort=False):
        places, p_values = [], []
        for _, of_task in of_model.groupby("task", sort=False):
            values = of_task["percent"].dropna()
            if len(values) < 2:
                continue
            best = values.idxmax()
            for i in values.index.drop([best]):
                pair = [found.get(keys[j]) for j in (best, i)]
                if pair[0] is not None and pair[1] is not None:
                    places.append(i)
                    p_values.append(permutation_p(paired_sample(pair[0], pair[1]), rng))
        cells.loc[places, "p_best"] = holm(p_values)
    return cells
