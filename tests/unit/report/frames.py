"""Constructed results for the report tests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from lofit.report import items, tables, transfer
from lofit.report.collect import SCHEMA

HEADLINE = {"truthfulqa": "mc1", "clutrr": "exact_match"}


def row(task: str, value: float | None, **changes: Any) -> dict[str, Any]:
    """One headline row of a LoFiT run with its own heads; a value of None means that the run failed."""
    base = {
        "model": "tiny",
        "task": task,
        "fold": 0,
        "method": "lofit",
        "selector": "lofit",
        "head_task": task,
        "n_heads": 8,
        "n_train": 100,
        "seed": 0,
        "eval_task": task,
        "eval_fold": 0,
        "protocol": "paper",
        "metric": HEADLINE[task] if value is not None else None,
        "value": math.nan if value is None else value,
        "stderr": math.nan,
        "n_items": 50,
        "status": "failed: out of memory" if value is None else "ok",
        "trained_params": None if value is None else 6144,
    } | changes
    names = ("model", "method", "n_heads", "head_task", "n_train", "task", "seed", "fold")
    return {"run_id": "-".join(str(base[name]) for name in names)} | base


def plain(task: str, value: float | None, method: str = "lora", **changes: Any) -> dict[str, Any]:
    """One headline row of a method without heads."""
    return row(task, value, **({"method": method, "selector": None, "head_task": None, "n_heads": None} | changes))


def results(*rows: dict[str, Any]) -> pd.DataFrame:
    """A results table with the columns and dtypes that ``collect`` writes."""
    frame = pd.DataFrame([{name: entry.get(name) for name in SCHEMA.names} for entry in rows])
    kinds = {"string": "str", "int64": "Int64", "double": "float64", "bool": "boolean"}
    return frame.astype({field.name: kinds[str(field.type)] for field in SCHEMA})


def scored(*runs: tuple[dict[str, Any], list[float]]) -> pd.DataFrame:
    """Items as ``collect_items`` writes them: of each run one row per value, every item its own cluster."""
    records = []
    for run, values in runs:
        where = {name: run[name] for name in ("run_id", "eval_task", "eval_fold", "protocol", "metric")}
        records += [where | {"item": str(i), "cluster": str(i), "value": value} for i, value in enumerate(values)]
    return pd.DataFrame(records, columns=items.SCHEMA.names)


def main_table(frame: pd.DataFrame, headline: Mapping[str, str], scores: pd.DataFrame | None = None) -> pd.DataFrame:
    """The main table, of runs whose items nobody looks at unless they are given."""
    return tables.main_table(frame, headline, scored() if scores is None else scores)


def transfer_matrix(
    frame: pd.DataFrame, headline: Mapping[str, str], n_heads: int, scores: pd.DataFrame | None = None, **options: Any
) -> pd.DataFrame:
    """The transfer matrix, of runs whose items nobody looks at unless they are given."""
    return transfer.transfer_matrix(frame, headline, n_heads, scored() if scores is None else scores, **options)
