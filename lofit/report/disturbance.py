"""The figure of disturbance: what a method gains, against how far it moves the model's predictions on other text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import Any

import pandas as pd

from lofit.plan.table import MAIN, RunTable
from lofit.report.figures import draw_disturbance
from lofit.report.items import item_interval, item_scores
from lofit.report.outputs import Output
from lofit.report.parts import read_part
from lofit.report.paths import headline
from lofit.report.tables import transferred, variant_names
from lofit.stats import Interval, Sample, by_seed, interval

KL = "kl"
"""Metric of plain text and of prompts of other tasks: KL(base || model), in nats per token."""
TEXT, PROMPTS = "plain text", "prompts of other tasks"
COLUMNS = [
    "model", "task", "scored_on", "moved_on", "method", "metric", "value", "low", "high", "kl", "kl_low", "kl_high",
    "n_items", "n_seeds",
]  # fmt: skip
_FIT = ["model", "variant", "task"]


def disturbance(
    results: pd.DataFrame, items: pd.DataFrame, headline: Mapping[str, str], compared: Mapping[str, Collection[str]]
) -> pd.DataFrame:
    """Return each method's scores on the task that it was fitted for and on others, with its disturbance.

    Args:
        results: as ``collect`` writes them, rows of one protocol for every evaluated task.
        items: as ``collect_items`` writes them.
        headline: the tasks to show, fitted for or retained, and their headline metrics (fractions).
        compared: kind of text to the tasks on whose texts predictions are compared with those of the base model.

    Returns:
        One row per ``model``, ``task`` (fitted for), ``scored_on``, ``moved_on`` (kind of text) and ``method``:
        ``metric``; ``value`` with its 95% interval ``low`` to ``high`` (fractions); ``kl`` with ``kl_low`` and
        ``kl_high``, the mean of KL(base || model) over the windows of all texts of the kind (nats per token; 0 for the
        base model, which is not compared with itself); ``n_items`` and ``n_seeds`` of the score. Runs without a score,
        or without a divergence, have no row.
    """
    rows = results[(results["status"] == "ok") & ~transferred(results)]
    rows = rows.assign(variant=variant_names(rows))
    moved = {
        (kind, *key): interval(Sample.of(table, bounded=False))
        for kind, tasks in compared.items()
        for key, table in _by_cell(rows[rows["eval_task"].isin(tasks) & (rows["metric"] == KL)], items, _FIT)
    }
    kinds = [kind for kind in compared if any(key[0] == kind for key in moved)]
    scored = dict(_by_cell(rows[rows["metric"] == rows["eval_task"].map(dict(headline))], items, [*_FIT, "eval_task"]))
    fitted, records = list(rows["task"].unique()), list[dict[str, Any]]()
    for (model, variant, task, on), table in scored.items():
        base = variant == "base"
        found = item_interval(table, float(table.to_numpy().mean()))
        score = {"value": found.mean, "low": found.low, "high": found.high}
        score |= {"n_items": len(table), "n_seeds": table.shape[1]}
        # The base is scored once on what is retained.
        for fitted_for, kind in product(fitted if base and on != task else [task], kinds):
            kl = Interval(0.0, 0.0, 0.0) if base else moved.get((kind, model, variant, fitted_for))
            if kl:
                where = {"model": model, "task": fitted_for, "scored_on": on, "moved_on": kind}
                distance = {"kl": kl.mean, "kl_low": max(0.0, kl.low), "kl_high": kl.high}
                records.append({**where, "method": variant, "metric": headline[on]} | score | distance)
    order = {name: number for number, name in enumerate([*rows["model"].unique(), *headline, *compared])}
    return pd.DataFrame(records, columns=COLUMNS).sort_values(
        ["model", "task", "scored_on", "moved_on"],
        key=lambda column: column.map(order),
        kind="stable",
        ignore_index=True,
    )


def _by_cell(
    rows: pd.DataFrame, items: pd.DataFrame, cell: list[str]
) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    scores = item_scores(rows, items)
    for name in ("item", "cluster"):  # a cell may hold several tasks
        scores[name] = scores["eval_task"] + "/" + scores[name]
    for key, group in scores.groupby(cell, sort=False):
        yield tuple(map(str, key)), by_seed(group)


def write(table: RunTable, output: Output) -> None:
    """Draw the figure for the runs of the main table, under the first protocol."""
    retained = {name: table.config.task(name) for name in table.config.retention}
    texts = [name for name, task in retained.items() if task.plain_text]
    asked = {name: task.headline for name, task in retained.items() if name not in texts}
    results, items = read_part(table, MAIN)
    ours = (results["eval_task"] != results["task"]) | (results["protocol"] == table.config.protocols[0])
    frame = disturbance(results[ours], items, headline(table) | asked, {TEXT: texts, PROMPTS: list(asked)})
    draw_disturbance(frame, table.drawn / output.id, title=output.title)
