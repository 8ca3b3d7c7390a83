"""What the main comparison says, in sentences made from its numbers, none of which claims more than its test."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd

from lofit.plan.table import MAIN, RunTable
from lofit.report.cells import headline_rows
from lofit.report.compare import main_rows, pairs
from lofit.report.items import item_scores
from lofit.report.parts import read_part
from lofit.report.paths import headline
from lofit.report.plain import DAGGER
from lofit.report.significance import ALPHA, UNITS
from lofit.report.tables import ROUGH_BELOW, cell_text, cells

BASE, OURS = "base", "lofit"
NOTE = (
    f"In brackets 95% intervals {UNITS}, each for itself. Differences are claimed "
    f"where a paired t-test says so at {ALPHA:.0%}, Holm-corrected: to the highest over all pairs of methods on the "
    "task; to the base model, and to LoFiT, over all methods and tasks of the model."
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
    rows = main_rows(table, table.config.protocols[0])
    if rows.empty:
        return []
    _, items = read_part(table, MAIN)
    return found_in(headline_rows(rows, metrics), items, metrics)


def found_in(rows: pd.DataFrame, items: pd.DataFrame, metrics: Mapping[str, str]) -> list[Finding]:
    """Return what scores say, for every model and task that has any.

    Args:
        rows: headline rows, with ``variant`` (what tables call a method) and ``x`` (NaN).
        items: as ``collect_items`` writes them.
        metrics: task to headline metric.
    """
    trained = rows.astype({"trained_params": "float64"}).groupby(["model", "task", "variant"])["trained_params"]
    costs = {key: float(value) for key, value in trained.mean().items()}
    methods = dict(zip(rows["variant"], rows["method"], strict=True))
    scored = rows[rows["value"].notna()]
    clusters = item_scores(scored, items).groupby(["model", "task"])["cluster"].nunique().to_dict()

    @cache
    def differences(model: str, other: str) -> pd.DataFrame:
        """All methods of a model against one of them; corrected over all tasks."""
        frame = pairs(scored[scored["model"] == model], items, other)
        return frame[frame["p_holm"].notna()]

    found = []
    for (model, task), group in cells(rows, metrics, items).groupby(["model", "task"], sort=False):
        known = group.dropna(subset=["percent"])
        if known.empty:
            continue
        here = (scored["model"] == model) & (scored["task"] == task)
        ours = scored.loc[here & (scored["method"] == OURS), "variant"]
        sentences = [_best(known, int(clusters[model, task]))]
        base = known[known["method"] == BASE]
        if len(base):
            frame = differences(str(model), BASE)
            sentences += _to_base(frame[frame["task"] == task], cell_text(base.iloc[0].to_dict()))
        if len(ours):
            frame = differences(str(model), ours.iloc[-1])
            sentences += _to_ours(frame[frame["task"] == task], methods, costs)
        if failed := list(group.loc[group["status"] == "failed", "method"]):
            sentences.append(f"Failed: {_listed(failed)}.")
        if partial := list(group.loc[group["status"] == "partial", "method"]):
            sentences.append(f"Without some of their seeds ({DAGGER}): {_listed(partial)}.")
        found.append(Finding(str(model), str(task), sentences))
    return found


def _best(known: pd.DataFrame, clusters: int) -> str:
    best = known.sort_values("percent", ascending=False, kind="stable").iloc[0]
    seeds = int(best["seeds"])
    rough = ", few enough that intervals are rough" if 1 < seeds < ROUGH_BELOW else ""
    of = f"{best['metric']}, {_counted(clusters, 'cluster')} of test items, {_counted(seeds, 'seed')}{rough}"
    scores = f"{cell_text(best.to_dict())}% ({of})"
    if len(known) == 1:
        return f"{best['method']}: {scores}."
    # Unlike bold type, this includes what cannot be tested.
    level = known.loc[~(known["p_best"] <= ALPHA) & (known["method"] != best["method"]), "method"]
    told = f"{best['method']} is highest, {scores}"
    return f"{told}; not significantly different from it: {_listed(list(level))}." if len(level) else f"{told}."


def _to_base(frame: pd.DataFrame, base: str) -> Iterator[str]:
    """Yield which methods are above the base model, below it, and not significantly different from it."""
    told = frame["p_holm"] <= ALPHA
    above, below = frame[told & (frame["difference"] > 0)], frame[told & (frame["difference"] < 0)]
    if len(above):
        best_first = above.sort_values("difference", ascending=False)
        yield f"Above the base model ({base}%): {_listed(list(map(_difference, best_first.to_dict('records'))))}."
    if len(below):
        yield f"Below the base model: {_listed(list(map(_difference, below.to_dict('records'))))}."
    if len(rest := frame[~told]):
        others = _listed(list(map(_difference, rest.to_dict("records"))))
        yield f"Not significantly different from the base model: {others}."


def _to_ours(frame: pd.DataFrame, methods: Mapping[str, str], costs: Mapping[Hashable, float]) -> Iterator[str]:
    """Yield how trained methods differ from LoFiT, with their numbers of trained parameters."""
    parts = []
    for line in frame.to_dict("records"):
        ours, theirs = (costs.get((line["model"], line["task"], line[name]), 0) for name in ("against", "arm"))
        if methods[line["arm"]] in (OURS, BASE) or not (ours > 0 and theirs > 0):
            continue
        verdict = "" if line["p_holm"] <= ALPHA else " (not significant)"
        parts.append(f"{_difference(line)}{verdict}, with {_times(theirs / ours)} trained parameters")
    if parts:
        yield f"Against {frame['against'].iloc[0]}: {'; '.join(parts)}."


def _difference(line: Mapping[Hashable, Any]) -> str:
    return f"{line['arm']} {line['difference']:+.1f} [{line['low']:+.1f}, {line['high']:+.1f}]"


def _times(ratio: float) -> str:
    if round(ratio, 2) == 1:
        return "as many"
    return f"{ratio:,.0f} times the" if ratio >= 10 else f"{ratio:.2g} times the"


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
