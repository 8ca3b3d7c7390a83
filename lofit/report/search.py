"""What a search tried, and what it chose."""

from __future__ import annotations

import pandas as pd

from lofit.errors import ConfigError
from lofit.files import need, read_json
from lofit.plan.table import RunTable
from lofit.report.plain import write_plain_table


def search_table(table: RunTable) -> pd.DataFrame:
    """One row per search and setting.

    Returns:
        ``model``, ``task``, ``fold``, ``seed``, ``method``, ``setting``, ``validation_loss`` (nats per answer token,
        or per preference pair), ``chosen`` (yes or no), ``note`` (why it failed) and ``run`` (the fit).

    Raises:
        ConfigError: nothing is searched.
        LofitError: a choice is not there yet.
    """
    if not table.tuned:
        raise ConfigError("search: no method has one; add `search: {params: {lr: [...]}}` to one")
    records = []
    for node in table.tuned.values():
        report = read_json(need(table.run_dir(node) / "fit.json", f"choose --run {node.id}"))
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


def write_search_table(table: RunTable) -> None:
    """Write ``tables/search.{csv,md,tex}``."""
    frame, stem = search_table(table), table.config.results / "tables" / "search"
    losses = frame["validation_loss"].map(lambda loss: "failed" if pd.isna(loss) else f"{loss:.4f}")
    shown = frame.drop(columns="run").assign(validation_loss=losses)
    legend = (
        "The lowest validation loss at the end of the fit is chosen (nats per answer token, or per preference pair)."
    )
    write_plain_table(frame, shown, stem, title="What searches tried and chose", legend=legend)
