"""The table of hyperparameter searches: what was tried, and what was chosen."""

from __future__ import annotations

import pandas as pd

from lofit.files import read_jsonl
from lofit.plan.kinds import SELECT_BEST
from lofit.plan.nodes import FitNode
from lofit.plan.ranking_pairs import setting
from lofit.plan.table import RunTable
from lofit.report.outputs import Output
from lofit.report.plain import write_plain_table


def search_table(table: RunTable) -> pd.DataFrame:
    """Return one row per search and setting.

    Returns:
        ``model``, ``task``, ``fold``, ``seed``, ``n_train`` (training examples), ``method``, ``heads`` (how many, from
        which end of which ranking; empty without selected ones), ``setting``, ``metric`` (name of the task's headline),
        ``validation_metric`` (in [0, 1]), ``validation_loss`` (nats per answer token, or per preference pair),
        ``chosen`` (yes or no), ``select_by`` (``metric`` or ``loss``), ``note`` (why it failed) and ``run`` (id of the
        fit).

    Raises:
        LofitError: a select_best node has not run yet.
    """
    records, sizes = [], dict[str, int]()
    for node in table.tuned.values():
        if node.leader:
            continue  # it chose nothing itself
        report = SELECT_BEST.read_report(table, node)
        where = {"model": node.model, "task": node.data.task, "fold": node.data.fold, "seed": node.seed}
        if node.data.id not in sizes:
            sizes[node.data.id] = len(read_jsonl(table.folder(node.data) / "train.jsonl"))
        where["n_train"] = sizes[node.data.id]
        where |= {"method": node.method, "heads": _heads(table, node)}
        for entry in report["search"]:
            chosen = report["status"] == "ok" and entry["run"] == report["chosen_run"]
            records.append(
                where
                | {"setting": ", ".join(f"{name}={at}" for name, at in entry["point"].items())}
                | {"metric": table.config.task(node.data.task).headline}
                | {name: entry[name] for name in ("validation_metric", "validation_loss")}
                | {"chosen": "yes" if chosen else "no", "select_by": node.select_by}
                | {"note": entry["reason"] or "", "run": entry["run"]}
            )
    return pd.DataFrame(records)


def _heads(table: RunTable, node: FitNode) -> str:
    if not node.ranking:
        return ""
    other = f" on {node.ranking.data.task}" if node.ranking.data.task != node.data.task else ""
    end = "last" if node.bottom else "first"
    return f"{end} {' or '.join(map(str, node.k))} of {setting(table, node.ranking)}{other}"


def write(table: RunTable, output: Output) -> None:
    """Write the table of searches."""
    frame = search_table(table)
    failed = frame["validation_loss"].isna()

    def shown_as(column: str) -> pd.Series:
        text = frame[column].map(lambda value: "not computed" if pd.isna(value) else f"{value:.4f}")
        return text.mask(failed, "failed")

    scores = {name: shown_as(name) for name in ("validation_metric", "validation_loss")}
    shown = frame.drop(columns=["run", "select_by"]).assign(**scores)
    by_metric = "highest validation metric is chosen, and of settings that are equal in it the lowest validation loss"
    by_loss = "lowest validation loss is chosen"
    legend = (
        f"The {by_metric if table.config.select_by == 'metric' else by_loss}. The metric is the task's headline under "
        "the protocol paper; the loss is in nats per answer token, or per preference pair. Both are of the trained "
        "values that the fit kept."
    )
    write_plain_table(frame, shown, table.drawn / output.id, title=output.title, legend=legend)
