"""Values that others have published, and which of them a configuration has a counterpart to."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lofit.runs import MAIN, FitNode, RunTable

FOLDER = Path(__file__).parents[1] / "config" / "expected"
TRAINED = "trained_params"
"""The metric of rows about the number of trained parameters; all others are percentages."""


@dataclass(frozen=True)
class Published:
    """One published value.

    Attributes:
        artefact: where ours stands: ``main``, or an experiment of the package.
        model: name in the catalogue.
        tasks: of a mean, one per metric; empty for trained parameters.
        metrics: names of metrics, or :data:`TRAINED` alone.
        method: name of the method, or of the experiment's arm.
        setting: what else is known of the run.
        value: percent, or a number of parameters.
        source: where it was read.
        source_kind: ``primary`` (the authors' own files), ``secondary`` (somebody's transcription), ``derived``.
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
    """All rows of ``config/expected/*.tsv``."""
    found = []
    for path in sorted(FOLDER.glob("*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                tasks, metrics = (tuple(filter(None, row.pop(key).split(", "))) for key in ("task", "metric"))
                found.append(Published(tasks=tasks, metrics=metrics, value=float(row.pop("value")), **row))
    return tuple(found)


def counterparts(table: RunTable) -> list[tuple[Published, list[FitNode]]]:
    """The published values that a configuration has runs for, with those runs; a mean needs all its tasks.

    Where a method is run on several numbers of heads, each has the value as its counterpart.
    """
    found = []
    for row in published():
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
