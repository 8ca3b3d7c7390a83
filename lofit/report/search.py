"""The table of what was tried and chosen on validation: by searches, and by methods among their strengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from lofit.files import read_jsonl
from lofit.plan.kinds import kind_of
from lofit.plan.nodes import FitNode, TunedNode
from lofit.plan.ranking_pairs import setting
from lofit.plan.table import RunTable
from lofit.report.outputs import Output
from lofit.report.plain import write_plain_table

COLUMNS = (
    *("model", "task", "fold", "seed", "n_train", "method", "heads", "setting", "metric"),
    *("validation_metric", "validation_loss", "chosen", "select_by", "note", "run"),
)


def search_table(table: RunTable) -> pd.DataFrame:
    """Return one row per choice and setting.

    Returns:
        ``model``, ``task``, ``fold``, ``seed``, ``n_train`` (training examples), ``method``, ``heads`` (how many, from
        which end of which ranking; empty without selected ones), ``setting``, ``metric`` (name of the task's headline),
        ``validation_metric`` (in [0, 1]), ``validation_loss`` (nats per answer token, or per preference pair),
        ``chosen`` (yes or no), ``select_by`` (``metric`` or ``loss``), ``note`` (why it failed) and ``run`` (id of the
        fit).

    Raises:
        LofitError: a node that chooses has not run yet.
    """
    records, sizes = [], dict[str, int]()
    for node in table.choices.values():
        report = kind_of(node).read_report(table, node)
        where = {"model": node.model, "task": node.data.task, "fold": node.data.fold, "seed": node.seed}
        if node.data.id not in sizes:
            sizes[node.data.id] = len(read_jsonl(table.folder(node.data) / "train.jsonl"))
        where["n_train"] = sizes[node.data.id]
        where |= {"method": node.method, "heads": _heads(table, node)}
        for point, entry, chosen in _tried(node, report):
            records.append(
                where
                | {"setting": ", ".join(f"{name}={at}" for name, at in point.items())}
                | {"metric": table.config.task(node.data.task).headline}
                | {name: entry.get(name) for name in ("validation_metric", "validation_loss")}
                | {"chosen": "yes" if chosen else "no", "select_by": node.select_by}
                | {"note": entry.get("reason") or "", "run": entry.get("run", node.id)}
            )
    return pd.DataFrame(records, columns=COLUMNS)


def _tried(node: FitNode, report: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any], bool]]:
    """Yield every setting, what was measured of it, and whether it was chosen; nothing of strengths if all failed."""
    if isinstance(node, TunedNode):
        for entry in report["search"]:
            yield entry["point"], entry, report["status"] == "ok" and entry["run"] == report["chosen_run"]
    elif report["status"] == "ok":
        for entry in report.get("grid", ()):  # a method outside the package may not record its own
            point = {name: entry[name] for name in report["chosen"]}
            yield point, entry, point == report["chosen"]


def _heads(table: RunTable, node: FitNode) -> str:
    if not node.ranking:
        return ""
    other = f" on {node.ranking.data.task}" if node.ranking.data.task != node.data.task else ""
    end = "last" if node.bottom else "first"
    return f"{end} {' or '.join(map(str, node.k))} of {setting(table, node.ranking)}{other}"


def write(table: RunTable, output: Output) -> None:
    """Write the table of what was tried."""
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
