"""Values that others have published, and which of them a configuration has a counterpart to."""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lofit.errors import ConfigError
from lofit.experiments import UNSCORED
from lofit.files import shipped
from lofit.plan.nodes import FitNode
from lofit.plan.table import MAIN, RunTable

FOLDER = shipped("config") / "expected"
TRAINED = "trained_params"
"""The metric of rows about the number of trained parameters; all others are percentages."""
NO_COUNTERPART = ("trained_percent", "average_delta")
"""Metrics of rows kept for the record alone: the share of trained parameters, which :data:`TRAINED` says more exactly,
and the average difference over a suite that the source does not name."""
KINDS = ("primary", "secondary", "derived")
COLUMNS = ("artefact", "model", "task", "metric", "method", "setting", "value", "source", "source_kind", "checked")


@dataclass(frozen=True)
class Published:
    """One published value.

    Attributes:
        artefact: where ours stands: ``main``, or an experiment of the package.
        model: name in the catalogue, or one that a model of your own can have; ``(unknown)`` matches none.
        tasks: one per metric; empty for :data:`TRAINED` and :data:`NO_COUNTERPART`.
        metrics: names of metrics, or :data:`TRAINED` or one of :data:`NO_COUNTERPART` alone.
        method: name of the method, or of the experiment's arm; another where we run nothing like it.
        setting: what else is known of the run.
        value: percent, or a number of parameters.
        source: where it was read.
        source_kind: ``primary`` (the authors' own files), ``secondary`` (somebody's transcription), ``derived``
            (arithmetic), or several of :data:`KINDS` joined by `` + ``.
        checked: how far it was checked.
    """

    artefact: str
    model: str
    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    method: str
    setting: str
    value: float
    source: str
    source_kind: str
    checked: str


@cache
def published() -> tuple[Published, ...]:
    """All rows of ``config/expected/*.tsv``.

    Raises:
        ConfigError: as of :func:`read_published`.
    """
    return tuple(row for path in sorted(FOLDER.glob("*.tsv")) for row in read_published(path))


def read_published(path: Path) -> list[Published]:
    """The rows of one file.

    Raises:
        ConfigError: not UTF-8 text, or a row that is malformed: one line naming file, line and remedy.
    """
    found = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        try:
            if sorted(rows.fieldnames or ()) != sorted(COLUMNS):
                raise ConfigError(f"{path}:1: the columns must be, with tabs between them: {', '.join(COLUMNS)}")
            for row in rows:
                found.append(_parsed(row, f"{path}:{rows.line_num}"))
        except UnicodeDecodeError as fault:
            raise ConfigError(f"{path}: not UTF-8 text (byte {fault.start}); save it as UTF-8") from None
        except csv.Error as fault:
            raise ConfigError(f"{path}:{rows.line_num}: not tab-separated text ({fault}); fix the line") from None
    return found


def _parsed(row: dict[str, str], where: str) -> Published:
    if None in row or None in row.values():
        raise ConfigError(f"{where}: a row has {len(COLUMNS)} cells with a tab between them; fix the line")
    for column in ("artefact", "model", "metric", "method", "source"):
        if not row[column].strip():
            raise ConfigError(f"{where}: {column} is empty; fill it in")
    tasks, metrics = (tuple(filter(None, row.pop(key).split(", "))) for key in ("task", "metric"))
    alone = {TRAINED, *NO_COUNTERPART} & set(metrics)
    if alone and (tasks or len(metrics) > 1):
        raise ConfigError(f"{where}: metric {min(alone)} stands alone and without a task; fix the line")
    if not alone and not len(tasks) == len(metrics) > 0:
        raise ConfigError(f"{where}: {len(tasks)} tasks for {len(metrics)} metrics; give one task per metric")
    text = row.pop("value")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    low = -100 if metrics == ("average_delta",) else 0
    high = math.inf if metrics == (TRAINED,) else 100
    if not (math.isfinite(value) and low <= value <= high):
        what = "a number of parameters" if metrics == (TRAINED,) else f"a percentage from {low} to {high}"
        raise ConfigError(f"{where}: value {text!r} is not {what}; fix it")
    if not set(row["source_kind"].split(" + ")) <= set(KINDS):
        raise ConfigError(f"{where}: source_kind {row['source_kind']!r} is none of {', '.join(KINDS)}; give one")
    return Published(tasks=tasks, metrics=metrics, value=value, **row)


def coverage(table: RunTable) -> dict[str, tuple[int, int]]:
    """Number of cells of each table and figure of scores, and of published values to compare them with.

    A cell is a model, a task and a method with its number of heads, or an arm of an experiment.
    """
    cells: dict[str, set[tuple[object, ...]]] = {
        MAIN: {(fit.model, fit.data.task, fit.method, fit.k) for fit in table.comparison.values()}
    }
    cells |= {
        name: {(arm.fit.model, arm.fit.data.task, arm.label, arm.x) for arm in arms}
        for name, arms in table.experiments.items()
        if table.config.experiment(name).kind not in UNSCORED
    }
    known = Counter(row.artefact for row in dict(matching_runs(table)))
    return {name: (len(found), known[name]) for name, found in cells.items()}


def matching_runs(table: RunTable) -> list[tuple[Published, list[FitNode]]]:
    """The published values that a configuration has runs for, with those runs; a mean needs all its tasks.

    Where a method is run on several numbers of heads, each has the value as its counterpart. Published values are of
    prompts without a chat template.
    """
    found: list[tuple[Published, list[FitNode]]] = []
    for row in published() if not table.config.chat else ():
        if row.metrics[0] in NO_COUNTERPART:
            continue
        if row.artefact == MAIN:
            fits = [fit for fit in table.comparison.values() if fit.method == row.method]
        else:
            fits = [arm.fit for arm in table.experiments.get(row.artefact, ()) if arm.label == row.method]
        fits = [fit for fit in fits if fit.model == row.model and (not row.tasks or fit.data.task in row.tasks)]
        for k in dict.fromkeys(fit.k for fit in fits):
            alike = {fit.id: fit for fit in fits if fit.k == k}
            if set(row.tasks) <= {fit.data.task for fit in alike.values()}:
                found.append((row, list(alike.values())))
    return found
