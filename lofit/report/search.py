"""The table of hyperparameter searches: what was tried, and what was chosen."""

from __future__ import annotations

import pandas as pd

from lofit.plan.kinds import SELECT_BEST
from lofit.plan.table import RunTable
from lofit.report.outputs import Output
from lofit.report.plain import write_plain_table


def search_table(table: RunTable) -> pd.DataFrame:
    """Return one row per search and setting.

    Returns:
        ``model``, ``task``, ``fold``, ``seed``, ``method``, ``setting``, ``validation_loss`` (nats per answer token,
        or per preference pair), ``chosen`` (yes or no), ``note`` (why it failed) and ``run`` (id of the fit).

    Raises:
        LofitError: a select_best node has not run yet.
    """
    records = []
    for node in table.tuned.values():
        report = SELECT_BEST.read_report(table, node)
        where = {"model": node.model, "task": node.data.task, "fold": node.data.fold, "seed": node.seed}
        for entry in report["search"]:
            chosen = report["status"] == "ok" and entry["run"] == report["chosen_run"]
            records.append(
                where
                | {"method": node.method, "setting": ", ".join(f"{name}={at}" for name, at in entry["point"].items())}
                | {"validation_loss": entry["validation_loss"], "chosen": "yes" if chosen else "no"}
                | {"note": entry["reason"] or "", "run": entry["run"]}
            )
    return pd.DataFrame(records)


def write(table: RunTable, output: Output) -> None:
    """Write the table of searches."""
    frame = search_table(table)
    losses = frame["validation_loss"].map(lambda loss: "failed" if pd.isna(loss) else f"{loss:.4f}")
    shown = frame.drop(columns="run").assign(validation_loss=losses)
    legend = (
        "The lowest validation loss at the end of the fit is chosen (nats per answer token, or per preference pair)."
    )
    write_plain_table(frame, shown, table.config.results / output.id, title=output.title, legend=legend)
