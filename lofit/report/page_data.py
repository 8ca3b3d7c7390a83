"""What the page needs to look into a score: runs with their settings and losses, and test items with their answers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lofit.files import read_jsonl, short_hash
from lofit.plan.kinds import EVALUATE, kind_of
from lofit.plan.nodes import EvalNode
from lofit.plan.table import MAIN, RunTable
from lofit.report.compare import main_rows
from lofit.report.items import scores_of
from lofit.report.outputs import outputs
from lofit.report.paths import headline
from lofit.report.samples import answered
from lofit.report.show import told_of_fit
from lofit.spec.protocol import table_name

MOST_BYTES = 2_500_000
"""Of all items with their answers, as JSON; with more, the page has the first items of every task only."""
_ANSWER_BYTES = 60
"""Of an answer, at least: with so many runs that this alone is too much, fewer items are read."""
_HEADS = 10
"""With tokens, of a run."""
_POINTS = 40
"""Of a training curve; with more steps, every n-th is kept."""


def page_data(table: RunTable) -> dict[str, Any]:
    """Return runs and items of the main comparison under the first protocol, as plain data.

    Returns:
        ``runs``: for each run with scores its ``id``, ``model``, ``method`` (as tables call it), ``task``, ``fold``,
        ``seed``, ``score`` (a fraction), ``told`` (pairs of a name and a text), ``curves`` (name to losses by step or
        epoch), ``lens`` (of each head with a large offset its place, L2 norm and tokens, if an experiment of kind
        ``lens`` has the run) and ``answers``, one for each item of its ``set``: the score, and the answer or the
        log-likelihoods of the choices (nats; None if it is not finite). ``items``: by set, which runs on the same
        items share, the ``prompt``, ``right`` answers and ``choices`` of each item.
        ``metrics``: task to headline metric. ``table``: the table of the protocol. ``shown`` and ``of``: the number of
        items of the page, and of the study.
    """
    protocol, metrics = table.config.protocols[0], headline(table)
    rows = main_rows(table, protocol)
    names = dict(zip(rows["run_id"], rows["variant"], strict=True))
    items: dict[str, list[dict[str, Any]]] = {}
    counts: dict[str, int] = {}
    runs, lenses = [], _lenses(table)
    own = [node for node in table.part(MAIN).values() if node.own and node.protocol == protocol]
    for node in own:
        report = EVALUATE.read_report(table, node)
        if report["status"] != "ok" or node.fit.id not in names or node.data.task not in metrics:
            continue
        metric = metrics[node.data.task]
        samples = [
            (sample, scores[metric])
            for sample in read_jsonl(table.folder(node) / "samples.jsonl")
            if metric in (scores := scores_of(sample))
        ]
        first = samples[: max(1, MOST_BYTES // (_ANSWER_BYTES * len(own)))]
        tests = read_jsonl(table.folder(node.data) / "test.jsonl")
        asked = [_item(sample, tests[sample["doc_id"]]) for sample, _ in first]
        place = short_hash(asked)
        items.setdefault(place, asked)
        counts[place] = len(samples)
        run = _run(table, node) | {"method": names[node.fit.id], "set": place}
        run |= {"score": report["metrics"][metric]["value"], "lens": lenses.get(node.fit.id, [])}
        runs.append(run | {"answers": [_answer(sample, score) for sample, score in first]})
    return {"metrics": metrics, "table": table_name(protocol), **_limited(runs, items), "of": sum(counts.values())}


def _run(table: RunTable, node: EvalNode) -> dict[str, Any]:
    fit = node.fit
    run: dict[str, Any] = {"id": fit.id, "model": fit.model, "task": fit.data.task, "fold": fit.data.fold}
    run |= {"seed": fit.seed, "told": [], "curves": {}}
    if told := told_of_fit(table, fit):
        report, run["told"] = kind_of(fit).read_report(table, fit), list(told.items())
        names = ("train_loss", "validation_loss", "validation_metric")
        curves = {name: _thinned(report.get(name) or []) for name in names}
        run["curves"] = {name: points for name, points in curves.items() if points}
    return run


def _lenses(table: RunTable) -> dict[str, list[list[str]]]:
    """Return place, norm and tokens of the largest offsets of each fit, from the logit lenses that are drawn."""
    found: dict[str, list[list[str]]] = {}
    for output in outputs(table):
        path = output.path(table.drawn).with_suffix(".csv")
        if output.module != "lens" or not path.is_file():
            continue
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        known = rows[rows["layer"] != ""]  # otherwise nothing was read
        for run in table.experiments[output.name]:
            own = (known["model"] == run.fit.model) & (known["task"] == run.fit.data.task) & (known["arm"] == run.label)
            heads = list(known[own].groupby(["layer", "head", "norm"], sort=False))[:_HEADS]
            found[run.fit.id] = [
                [f"layer {layer}, head {head}", f"{float(str(norm)):.3f}", ", ".join(tokens["token"])]
                for (layer, head, norm), tokens in heads
            ]
    return found


def _thinned(values: Sequence[float | None]) -> list[list[float]]:
    """Return pairs of a position and a value, about so many at most; the last is among them."""
    known = [[at, float(f"{value:.5g}")] for at, value in enumerate(values) if value is not None]
    step = -(-len(known) // _POINTS)
    return known[:: step or 1] + (known[-1:] if known and (len(known) - 1) % step else [])


def _item(sample: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    found = answered(sample)
    # The prompt of the row has no examples in front of it, and no chat template, so methods share the item.
    prompt = row["prompt"] if "prompt" in sample["doc"] else None
    right = [at for at, (_, _, right) in enumerate(found.choices) if right]
    return {
        "id": found.id,
        "prompt": prompt if isinstance(prompt, str) else "\n".join(found.asked),
        "right": found.right,
        "choices": [text for text, _, _ in found.choices],
        "gold": right,
    }


def _answer(sample: Mapping[str, Any], score: float) -> list[Any]:
    found = answered(sample)
    if found.answer is not None:
        return [round(score, 4), found.answer]
    likelihoods = [likelihood for _, likelihood, _ in found.choices]
    return [round(score, 4), [round(value, 2) if math.isfinite(value) else None for value in likelihoods]]


def _limited(runs: list[dict[str, Any]], items: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return runs and items, with so many of the first items of every set as fit on the page."""
    size = len(json.dumps([items, [run["answers"] for run in runs]]).encode())
    share = min(1.0, MOST_BYTES / size)
    kept = {place: found[: max(1, int(share * len(found)))] for place, found in items.items()}
    for run in runs:
        run["answers"] = run["answers"][: len(kept[run["set"]])]
    return {"runs": runs, "items": kept, "shown": sum(map(len, kept.values()))}
