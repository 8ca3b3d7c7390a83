"""The report nodes: collect, tables, figures, and the summary printed at the end."""

from __future__ import annotations

import shlex
from pathlib import Path

import pandas as pd
from rich.console import Console

from lofit.errors import ConfigError
from lofit.files import need, read_json
from lofit.methods import load_method
from lofit.plan.nodes import EvalNode, TunedNode
from lofit.plan.table import MAIN, TRANSFER, RunTable
from lofit.report.collect import EvaluatedRun, collect, read_results
from lofit.report.differences import retention_table, suite_table, write_retention, write_suite
from lofit.report.items import collect_items
from lofit.report.outputs import outputs
from lofit.report.paths import headline, items_path, results_path
from lofit.report.tables import main_table, print_table, write_table
from lofit.report.transfer import draw_transfer, transfer_matrix
from lofit.spec.protocol import Protocol, table_name


def evaluated_run(table: RunTable, evaluation: EvalNode) -> EvaluatedRun:
    """Where a node's scores and costs are."""
    node, ranking = evaluation.fit, evaluation.fit.ranking
    tuned = isinstance(node, TunedNode)  # its report tells the cost of the rankings too
    read = [table.activations_of(user) for user in (node, ranking) if user]
    activations = {used.id: used for used in read if used}.values()
    manifest = read_json(need(table.data_dir(node.data) / "manifest.json", f"prepare --run {node.data.id}"))
    return EvaluatedRun(
        run_id=node.id,
        model=node.model,
        task=node.data.task,
        fold=node.data.fold,
        method=node.method,
        selector=ranking.localizer if ranking else None,
        head_task=ranking.data.task if ranking else None,
        n_heads=node.k[0] if len(node.k) == 1 and not load_method(node.method).chooses_k else None,
        n_train=manifest["counts"]["train"]["kept"],
        seed=node.seed,
        training_seed=node.own_seed,
        eval_task=evaluation.data.task,
        eval_fold=evaluation.data.fold,
        protocol=evaluation.protocol,
        eval_path=table.eval_dir(evaluation),
        fit_path=table.run_dir(node) / "fit.json" if load_method(node.method).fit else None,
        localize_path=table.localize_dir(ranking) / "localize.json" if ranking and not tuned else None,
        items_path=table.data_dir(evaluation.data) / "test.jsonl",
        context=table.config.task(evaluation.data.task).overlap_key,
        activations_paths=tuple(table.activations_dir(used) / "activations.json" for used in activations),
    )


def collect_results(table: RunTable, part: str) -> None:
    """Write results.parquet and results.csv of a part, and items.parquet with every single test item."""
    runs = [evaluated_run(table, node) for node in table.part(part).values()]
    collect(runs, results_path(table, part))
    collect_items(runs, items_path(table, part))


def _collected(table: RunTable, part: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Results and items of a part."""
    return read_results(results_path(table, part)), pd.read_parquet(items_path(table, part))


def comparison(table: RunTable, protocol: Protocol) -> pd.DataFrame:
    """The main table under one protocol."""
    results, items = _collected(table, MAIN)
    chosen = headline(table, protocol)
    rows = results[(results["protocol"] == protocol) & results["task"].isin(chosen)]
    return main_table(rows, chosen, items)


def write_main_tables(table: RunTable) -> None:
    """Write tables/main.{csv,md,tex}, and tables/main-<protocol> for others than ``paper``."""
    for protocol in table.config.protocols:
        write_table(comparison(table, protocol), table.config.results / "tables" / table_name(protocol))


def write_suite_table(table: RunTable) -> None:
    """Write tables/suite.{csv,md,tex}: differences to base and to full fine-tuning, averaged over tasks."""
    names, protocol = table.config.suite or list(table.config.tasks), table.config.protocols[0]
    chosen = {name: metric for name, metric in headline(table, protocol).items() if name in names}
    results, items = _collected(table, MAIN)
    results = results[results["protocol"] == protocol]
    write_suite(suite_table(results, items, chosen), table.config.results / "tables" / "suite")


def write_retention_table(table: RunTable) -> None:
    """Write tables/retention.{csv,md,tex}: what fitting a method for one task cost on others."""
    found = {name: table.config.task(name) for name in table.config.retention}
    chosen = {name: task.headline for name, task in found.items()}
    in_nats = [name for name, task in found.items() if task.plain_text]
    results, items = _collected(table, MAIN)
    write_retention(retention_table(results, items, chosen, in_nats), table.config.results / "tables" / "retention")


def draw_transfer_figure(table: RunTable) -> None:
    """Write figures/transfer.{pdf,png,csv}."""
    config = table.config
    if not config.transfer:
        raise ConfigError("transfer: not configured, so there is no figure to draw; add `transfer: {k: 0.10}`")
    protocol, names = config.protocols[0], config.transfer.tasks or config.tasks
    chosen = {name: metric for name, metric in headline(table, protocol).items() if name in names}
    results, items = _collected(table, TRANSFER)
    results = results[results["task"].isin(chosen) & (results["head_task"].isna() | results["head_task"].isin(chosen))]
    n_heads = {model: config.head_count(model, config.transfer.k) for model in config.models}
    name = config.transfer.method
    selector = table.localizer_of(name)
    matrix = pd.concat(
        [
            transfer_matrix(results[results["model"] == model], chosen, k, items, method=name, selector=selector)
            for model, k in n_heads.items()
        ]
    )
    draw_transfer(matrix, config.results / "figures" / "transfer", headline=chosen, n_heads=n_heads)


def write_outputs(table: RunTable) -> None:
    """Write everything of ``outputs`` and the report, from results that are collected."""
    from lofit.report.expected import write_expected_table
    from lofit.report.experiments import write_experiment
    from lofit.report.overlap import write_overlap
    from lofit.report.page import write_report
    from lofit.report.search import write_search_table

    write_main_tables(table)
    others = {
        "suite": write_suite_table,
        "retention": write_retention_table,
        "expected": write_expected_table,
        "overlap": write_overlap,
        "search": write_search_table,
        "transfer": draw_transfer_figure,
    }
    for name in dict.fromkeys(output.name for output in outputs(table)):
        if name in others:
            others[name](table)
        elif name in table.config.experiments:
            write_experiment(table, name)
    write_report(table)


def print_results(table: RunTable) -> None:
    """Print the main tables, and where the files are."""
    results = table.config.results
    for protocol in table.config.protocols:
        print_table(comparison(table, protocol))
    console = Console(markup=False, emoji=False, highlight=False)  # titles and paths are the user's
    files = [("every score, tidy", results / "results.parquet")]
    files += [(output.title, output.path(results)) for output in outputs(table)]
    files += [("adapters, losses, per-item scores", results / "runs"), ("all on one page", results / "report.html")]
    console.print("\nFiles")
    for what, path in files:
        console.print(f"  {what}: {path}", soft_wrap=True)


def print_summary(table: RunTable, configfile: Path) -> None:
    """Print the main tables, where the files are, and what to do next."""
    print_results(table)
    option = f"--configfile {shlex.quote(str(configfile))}"
    Console(markup=False, emoji=False, highlight=False).print(
        f"\nNext: edit {configfile} (models, tasks, methods, seeds), see what would run, and run it again:\n"
        f"  lofit plan {option}\n"
        f"  snakemake --cores 2 {option}\n"
        "Only what changed is computed.",
        soft_wrap=True,
    )
