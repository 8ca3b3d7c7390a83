"""What the main comparison says, in sentences made from its numbers, none of which claims more than its test."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lofit.plan.table import MAIN, RunTable
from lofit.report.cells import headline_rows
from lofit.report.compare import main_rows, pairs
from lofit.report.items import item_scores
from lofit.report.parts import read_part
from lofit.report.paths import headline
from lofit.report.significance import ALPHA
from lofit.report.tables import ROUGH_BELOW, cell_text, cells

BASE, OURS = "base", "lofit"
NOTE = (
    "In brackets 95% intervals over clusters of test items and over seeds. A difference is told where a paired t-test, "
    f"Holm-corrected over all methods and tasks of the model that are set against the same one, says so at {ALPHA:.0%}."
)


@dataclass(frozen=True)
class Finding:
    """What was found for one model on one task.

    Attributes:
        model, task: for which it was found.
        sentences: each whole, without markup.
    """

    model: str
    task: str
    sentences: list[str]


def findings(table: RunTable) -> list[Finding]:
    """Return what the main comparison says under the first protocol, for every model and task with scores."""
    metrics = headline(table)
    _, items = read_part(table, MAIN)
    return found_in(headline_rows(main_rows(table, table.config.protocols[0]), metrics), items, metrics)


def found_in(rows: pd.DataFrame, items: pd.DataFrame, metrics: Mapping[str, str]) -> list[Finding]:
    """Return what scores say, for every model and task that has any.

    Args:
        rows: headline rows, with ``variant`` (what tables call a method) and ``x`` (NaN).
        items: as ``collect_items`` writes them.
        metrics: task to headline metric.
    """
    trained = rows.astype({"trained_params": "float64"}).groupby(["model", "task", "variant"])["trained_params"]
    costs = {key: float(value) for key, value in trained.mean().items()}
    of = dict(zip(rows["variant"], rows["method"], strict=True))
    against_base = pairs(rows, items, BASE)
    ours = [variant for variant, method in of.items() if method == OURS]
    against_ours = pairs(rows, items, ours[-1]) if ours else against_base.iloc[:0]
    scored = item_scores(rows[rows["value"].notna()], items).groupby(["model", "task"])["cluster"]
    clusters = {key: int(count) for key, count in scored.nunique().items()}
    found = []
    for (model, task), group in cells(rows, metrics, items).groupby(["model", "task"], sort=False):
        where = str(model), str(task)
        known = group.dropna(subset=["percent"])
        if known.empty:
            continue
        here = dict(zip(known["method"], map(cell_text, known.to_dict("records")), strict=True))
        sentences = [_best(known, here, clusters[where])]
        sentences += _to_base(_of(against_base, model, task), here)
        sentences += _to_ours(_of(against_ours, model, task), of, costs)
        if failed := list(group.loc[group["status"] == "failed", "method"]):
            sentences.append(f"Failed: {_listed(failed)}.")
        found.append(Finding(*where, sentences))
    return found


def _of(frame: pd.DataFrame, model: object, task: object) -> pd.DataFrame:
    return frame[(frame["model"] == model) & (frame["task"] == task)]


def _best(known: pd.DataFrame, here: dict[str, str], clusters: int) -> str:
    best = known.sort_values("percent", ascending=False, kind="stable").iloc[0]
    level = [name for name, p in zip(known["method"], known["p_best"], strict=True) if p > ALPHA]
    seeds = int(known["seeds"].max())
    rough = ", few enough that intervals are rough" if 1 < seeds < ROUGH_BELOW else ""
    of = f"{best['metric']}, {clusters} clusters of test items, {seeds} seed{'' if seeds == 1 else 's'}{rough}"
    told = f"{best['method']} is highest, {here[best['method']]}% ({of})"
    return f"{told}; not told from it: {_listed(level)}." if level else f"{told}."


def _to_base(frame: pd.DataFrame, here: dict[str, str]) -> Iterator[str]:
    """Yield which methods are above the base model, below it, and not told from it."""
    if frame.empty or BASE not in here:
        return
    told = frame["p_holm"] <= ALPHA
    above, below = frame[told & (frame["difference"] > 0)], frame[told & (frame["difference"] < 0)]
    if len(above):
        best_first = above.sort_values("difference", ascending=False)
        yield f"Above the base model ({here[BASE]}%): {_listed(list(map(_difference, best_first.to_dict('records'))))}."
    if len(below):
        yield f"Below the base model: {_listed(list(map(_difference, below.to_dict('records'))))}."
    if len(rest := frame[~told]):
        yield f"Not told from the base model: {_listed(list(map(_difference, rest.to_dict('records'))))}."


def _to_ours(frame: pd.DataFrame, of: Mapping[str, str], costs: Mapping[Hashable, float]) -> Iterator[str]:
    """Yield how trained methods differ from LoFiT, with their numbers of trained parameters."""
    parts = []
    for line in frame.to_dict("records"):
        ours, theirs = (costs.get((line["model"], line["task"], line[name]), 0) for name in ("against", "arm"))
        if of[line["arm"]] in (OURS, BASE) or not (ours > 0 and theirs > 0):
            continue
        verdict = "" if line["p_holm"] <= ALPHA else ", not told apart"
        parts.append(f"{_difference(line)}{verdict}, with {_times(theirs / ours)} the trained parameters")
    if parts:
        yield f"Against {frame['against'].iloc[0]}: {'; '.join(parts)}."


def _difference(line: Mapping[Hashable, Any]) -> str:
    return f"{line['arm']} {line['difference']:+.1f} [{line['low']:+.1f}, {line['high']:+.1f}]"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} times" if ratio >= 10 else f"{ratio:.2g} times"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
