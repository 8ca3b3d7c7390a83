"""Collect the results of all evaluated runs in one tidy table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lofit.errors import ReportError
from lofit.files import atomic_path, read_json
from lofit.spec.protocol import COUNTED

#: Columns of ``results.parquet``, in order. ``value`` and ``stderr`` are as the evaluation wrote them (headline
#: metrics are fractions in [0, 1]). ``tried`` is the number of settings compared on validation data (1: the configured
#: setting only), ``extended`` how many of them are beyond the planned grid, ``chosen`` is the chosen setting, and
#: ``outermost`` whether its learning rate is the lowest or the highest of those that were tried.
#: ``*_seconds`` are seconds of wall time; for a search they cover all settings and their rankings.
#: ``peak_memory_bytes`` is in bytes.
SCHEMA = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("fold", pa.int64(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("selector", pa.string()),
        pa.field("head_task", pa.string()),
        pa.field("n_heads", pa.int64()),
        pa.field("tried", pa.int64()),
        pa.field("extended", pa.int64()),
        pa.field("chosen", pa.string()),
        pa.field("outermost", pa.bool_()),
        pa.field("n_train", pa.int64(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("training_seed", pa.int64(), nullable=False),
        pa.field("eval_task", pa.string(), nullable=False),
        pa.field("eval_fold", pa.int64(), nullable=False),
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("metric", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("stderr", pa.float64()),
        pa.field("n_items", pa.int64()),
        *(pa.field(name, pa.int64()) for name in COUNTED),
        pa.field("status", pa.string(), nullable=False),
        pa.field("trained_params", pa.int64()),
        pa.field("stored_params", pa.int64()),
        pa.field("inference_params", pa.int64()),
        pa.field("activations_seconds", pa.float64()),
        pa.field("localize_seconds", pa.float64()),
        pa.field("fit_seconds", pa.float64()),
        pa.field("peak_memory_bytes", pa.int64()),
        pa.field("dtype", pa.string()),
        pa.field("backend", pa.string()),
    ]
)
_DTYPES = {"string": "str", "int64": "Int64", "double": "float64", "bool": "boolean"}
_RUN_COLUMNS = (
    "run_id", "model", "task", "fold", "method", "selector", "head_task",
    "n_heads", "n_train", "seed", "training_seed", "eval_task", "eval_fold", "protocol",
)  # fmt: skip
_FIT_COLUMNS = {
    "trained_params": "trained_params",
    "stored_params": "stored_params",
    "inference_params": "inference_params",
    "fit_seconds": "seconds",
    "peak_memory_bytes": "peak_memory_bytes",
}


@dataclass(frozen=True)
class EvaluatedRun:
    """One run evaluated on one task, with the paths of its outputs.

    Attributes:
        run_id: the run's id.
        model: the model's name in the configuration.
        task: the task on which the method was fitted.
        fold: fold of ``task``.
        method: the method's name.
        selector: by what heads were selected; None for methods without head selection.
        head_task: the task on which the heads were selected (``task`` itself unless heads are transferred).
        n_heads: number of heads edited (K); None for methods without head selection and methods that choose K.
        n_train: number of training examples.
        seed: seed of the training subset.
        training_seed: seed of the fit; equal to ``seed`` unless an experiment varies them separately.
        eval_task: the task on which the run was evaluated (``task``, or another one to measure retention).
        eval_fold: fold of ``eval_task``.
        protocol: name of the prompt and scoring protocol.
        eval_path: folder with ``results.json`` and ``samples.jsonl``.
        fit_path: ``fit.json``; None if nothing was fitted.
        localize_path: ``localize.json``; None if no heads were ranked.
        activations_paths: every ``activations.json`` that was used, by the method or for the ranking.
        items_path: JSON lines of the test items; None if it is not known which items share a context.
        cluster_field: field of these lines with the text that dependent items share.
    """

    run_id: str
    model: str
    task: str
    fold: int
    method: str
    selector: str | None
    head_task: str | None
    n_heads: int | None
    n_train: int
    seed: int
    training_seed: int
    eval_task: str
    eval_fold: int
    protocol: str
    eval_path: Path
    fit_path: Path | None = None
    localize_path: Path | None = None
    activations_paths: tuple[Path, ...] = ()
    items_path: Path | None = None
    cluster_field: str = "prompt"


def collect(rows: Sequence[EvaluatedRun], target: Path) -> pd.DataFrame:
    """Write one row per (run, eval task, metric) to ``target`` (parquet) and to a ``.csv`` file beside it.

    If any node of a run failed, the run has a single row: metric null, value NaN and status ``failed: <reason>``. All
    other rows have status ``ok``.

    Args:
        rows: the evaluated runs; their order is kept.
        target: path of the parquet file, ending in ``.parquet``.

    Returns:
        The table as written, with the columns of ``SCHEMA``.

    Raises:
        ReportError: a file is missing or malformed, an evaluation is given twice, or the runs of a model differ in
            dtype or backend.
    """
    if target.suffix != ".parquet":
        raise ReportError(f"results file {target} must end in .parquet")
    seen: set[tuple[str, str, int, str]] = set()
    records: list[dict[str, Any]] = []
    for run in rows:
        key = (run.run_id, run.eval_task, run.eval_fold, run.protocol)
        if key in seen:
            raise ReportError(f"run {run.run_id} is listed twice for eval task {run.eval_task}; list it once")
        seen.add(key)
        records.extend(_records(run))
    frame = pd.DataFrame(records, columns=SCHEMA.names)
    for column in ("dtype", "backend"):
        for model, group in frame.groupby("model"):
            if len(names := sorted(set(group[column].dropna()))) > 1:
                raise ReportError(
                    f"{model} was run in {' and '.join(names)}, which must not share a table; set {column}"
                )
    frame = frame.astype({field.name: _DTYPES[str(field.type)] for field in SCHEMA})
    table = pa.Table.from_pandas(frame, schema=SCHEMA, preserve_index=False)
    with atomic_path(target) as part:
        pq.write_table(table, part)
    with atomic_path(target.with_suffix(".csv")) as part:
        frame.to_csv(part, index=False)
    return frame


def read_results(path: Path) -> pd.DataFrame:
    """Read the table that :func:`collect` wrote.

    Raises:
        ReportError: the file is missing, is no parquet file, or lacks columns of ``SCHEMA``.
    """
    if not path.is_file():
        raise ReportError(f"no results at {path}; run the workflow first, or name another file")
    try:
        frame = pd.read_parquet(path)
    except pa.ArrowInvalid as error:
        raise ReportError(f"{path} is not a parquet file ({error})") from None
    absent = [name for name in SCHEMA.names if name not in frame.columns]
    if absent:
        raise ReportError(f"{path} lacks the columns {', '.join(absent)}; collect the results again")
    return frame[SCHEMA.names]


def _records(run: EvaluatedRun) -> list[dict[str, Any]]:
    path = run.eval_path / "results.json"
    result = _load(path)
    fit_path, localize_path = run.fit_path, run.localize_path
    fit = _load(fit_path) if fit_path else {}
    localize = _load(localize_path) if localize_path else {}
    activations = [(_load(read), read) for read in run.activations_paths]
    base: dict[str, Any] = {name: getattr(run, name) for name in _RUN_COLUMNS}
    base |= {"metric": None, "value": math.nan, "stderr": math.nan}
    base["n_items"] = _number(result, "n_items", path)
    base |= {name: _number(result, name, path) for name in COUNTED}
    base |= {column: _number(fit, key, fit_path) for column, key in _FIT_COLUMNS.items()}
    base["localize_seconds"] = _number(localize, "seconds", localize_path)
    seconds = [_number(document, "seconds", read) for document, read in activations]
    base["activations_seconds"] = sum(filter(None, seconds)) if seconds else None
    base["dtype"], base["backend"] = result.get("dtype"), result.get("backend")
    base["tried"] = len(fit.get("search") or fit.get("grid") or [fit]) if fit_path else None  # failed ones count too
    base["extended"] = int(fit.get("extended", False)) if fit_path else None
    base["chosen"] = ", ".join(f"{name}={value}" for name, value in (fit.get("chosen") or {}).items()) or None
    base["outermost"] = _outermost(fit) if fit_path else None
    # In workflow order: the first node that failed is the cause, so its reason is shown.
    for document, where in (
        *activations, (localize, localize_path), (fit, fit_path), (result, path),
    ):  # fmt: skip
        if where is None:
            continue
        status = document.get("status")
        if status == "failed":
            reason = " ".join(str(document.get("reason") or "no reason given").split())
            return [base | {"status": f"failed: {reason}"}]
        if status != "ok":
            raise ReportError(f'{where}: "status" must be "ok" or "failed", found {status!r}; run that node again')
    metrics = result.get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        raise ReportError(f'{path}: status is ok but "metrics" is empty; evaluate run {run.run_id} again')
    records = []
    for name, entry in metrics.items():
        at = f"{path}: metric {name}"
        value = _number(entry, "value", at) if isinstance(entry, dict) else None
        if value is None:
            raise ReportError(f"{at} has no finite value; evaluate run {run.run_id} again")
        stderr = _number(entry, "stderr", at)
        n_items = base["n_items"] if entry.get("n_items") is None else _number(entry, "n_items", at)
        found = {"metric": name, "value": value, "stderr": stderr, "n_items": n_items}
        records.append(base | {"status": "ok"} | found)
    return records


def _load(path: Path) -> dict[str, Any]:
    try:
        document = read_json(path, ReportError)
    except FileNotFoundError:
        raise ReportError(f"{path} does not exist; run the node that writes it") from None
    if not isinstance(document, dict):
        raise ReportError(f"{path} must hold a JSON object, found {type(document).__name__}")
    return document


def _outermost(fit: Mapping[str, Any]) -> bool:
    """Whether a search chose the lowest or the highest of several learning rates."""
    rates = {float(entry["point"]["lr"]) for entry in fit.get("search", ()) if "lr" in entry["point"]}
    chosen = (fit.get("chosen") or {}).get("lr")
    return len(rates) > 1 and chosen is not None and float(chosen) in (min(rates), max(rates))


def _number(document: dict[str, Any], key: str, where: Path | str | None) -> int | float | None:
    """Return the number ``document[key]``; None if it is absent, null or not finite."""
    value = document.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReportError(f'{where}: "{key}" must be a number or null, found {value!r}')
    return value if math.isfinite(value) else None
