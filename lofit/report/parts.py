"""Collect the scores of a part of the run table, and read them again."""

from __future__ import annotations

import pandas as pd

from lofit.errors import ReportError
from lofit.methods import load_method
from lofit.plan.kinds import CAPTURE, LOCALIZE, PREPARE, kind_of
from lofit.plan.nodes import EvalNode, TunedNode
from lofit.plan.table import RunTable
from lofit.report.collect import EvaluatedRun, collect, read_results
from lofit.report.items import collect_items
from lofit.report.paths import items_path, results_path


def evaluated_run(table: RunTable, evaluation: EvalNode) -> EvaluatedRun:
    """Return the description of an evaluated run, with the paths of its scores and costs."""
    node, ranking = evaluation.fit, evaluation.fit.ranking
    tuned = isinstance(node, TunedNode)  # its report includes the cost of the rankings
    read = [table.activations_of(user) for user in (node, ranking) if user]
    activations = {used.id: used for used in read if used}.values()
    manifest = PREPARE.read_report(table, node.data)
    return EvaluatedRun(
        run_id=node.id,
        model=node.model,
        task=node.data.task,
        fold=node.data.fold,
        method=node.method,
        selector=node.selector,
        head_task=ranking.data.task if ranking else None,
        n_heads=node.k[0] if len(node.k) == 1 and not load_method(node.method).chooses_k else None,
        n_train=manifest["counts"]["train"]["kept"],
        seed=node.seed,
        training_seed=node.own_seed,
        eval_task=evaluation.data.task,
        eval_fold=evaluation.data.fold,
        protocol=evaluation.protocol,
        eval_path=table.folder(evaluation),
        fit_path=kind_of(node).report(table, node) if load_method(node.method).fit else None,
        localize_path=LOCALIZE.report(table, ranking) if ranking and not tuned else None,
        items_path=table.folder(evaluation.data) / "test.jsonl",
        cluster_field=table.config.task(evaluation.data.task).cluster_field,
        activations_paths=tuple(CAPTURE.report(table, used) for used in activations),
    )


def collect_results(table: RunTable, part: str) -> None:
    """Write results.parquet and results.csv of a part, and items.parquet with the scores of every test item."""
    runs = [evaluated_run(table, node) for node in table.part(part).values()]
    collect(runs, results_path(table, part))
    collect_items(runs, items_path(table, part))


def read_part(table: RunTable, part: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the results and the item scores of a part.

    Raises:
        ReportError: they have not been collected, or are those of other runs.
    """
    results = read_results(results_path(table, part))
    if set(results["run_id"]) != {node.fit.id for node in table.part(part).values()}:
        raise ReportError(f"{results_path(table, part)} is of another configuration; run the workflow of this one")
    return results, pd.read_parquet(items_path(table, part))


def is_collected(table: RunTable, part: str) -> bool:
    """Whether the scores of a part, as the configuration is now, have been collected."""
    try:
        read_part(table, part)
    except ReportError:
        return False
    return True
