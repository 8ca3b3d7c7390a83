"""Confidence intervals, and tests of each method against the best one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lofit.report.items import item_interval, item_scores
from lofit.stats import holm, paired_sample, permutation_p

ALPHA = 0.05
TEST = f"paired permutation test over items, Holm-corrected over the tests of the model, at {ALPHA:.0%}"


def compared_with_best(
    frame: pd.DataFrame, rows: pd.DataFrame, items: pd.DataFrame, tasks: Sequence[str]
) -> pd.DataFrame:
    """Add confidence intervals, and the p-value of each method's difference to the best method.

    The score of an item is its mean over seeds; the items of all folds are pooled.

    Args:
        frame: one row per ``model`` and ``method``, with ``<task>.percent``.
        rows: headline rows of the runs behind ``frame``, with ``variant`` (the name of the method in ``frame``).
        items: as ``collect_items`` writes them.
        tasks: the tasks to compare on.

    Returns:
        The frame with ``<task>.percent_low`` and ``.percent_high``, the 95% confidence interval over the test items,
        and ``<task>.p_best``, the p-value of the difference to the best method on the task (paired permutation test,
        Holm-corrected over all such tests of the model). ``p_best`` is NaN for the best method and where there is
        nothing to test.
    """
    scores = item_scores(rows, items)
    found: dict[tuple[str, str, str], pd.DataFrame] = {
        (str(model), str(variant), str(task)): group
        for (model, variant, task), group in scores.groupby(["model", "variant", "task"], sort=False)
    }
    rng = np.random.default_rng(0)
    frame = frame.copy()
    for task in tasks:
        for name in ("percent_low", "percent_high", "p_best"):
            frame[f"{task}.{name}"] = np.nan
        for i, line in frame.iterrows():
            group = found.get((line["model"], line["method"], task))
            if group is None or pd.isna(line[f"{task}.percent"]):
                continue
            interval = item_interval(group, line[f"{task}.percent"] / 100, rng)
            frame.loc[i, f"{task}.percent_low"] = 100 * interval.low
            frame.loc[i, f"{task}.percent_high"] = 100 * interval.high
    for model in frame["model"].unique():
        places, p_values = [], []
        of_model = frame[frame["model"] == model]
        for task in tasks:
            values = of_model[f"{task}.percent"].dropna()
            if len(values) < 2:
                continue
            best = of_model.loc[values.idxmax()]
            for i in values.index.drop(best.name):
                pair = [found.get((model, of_model.loc[j, "method"], task)) for j in (best.name, i)]
                if pair[0] is not None and pair[1] is not None:
                    places.append((i, f"{task}.p_best"))
                    p_values.append(permutation_p(paired_sample(pair[0], pair[1]), rng))
        for place, p in zip(places, holm(p_values), strict=True):
            frame.loc[place] = p
    return frame
