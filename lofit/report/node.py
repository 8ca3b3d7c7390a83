"""The report nodes: collect, tables, figures, and the summary printed at the end."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.console import Console

from lofit import tasks
from lofit.errors import ConfigError
from lofit.evaluate.protocol import PROTOCOL
from lofit.files import atomic_path, need, read_json, write_text
from lofit.localize.overlap import overlap_table
from lofit.localize.ranking import read_ranking
from lofit.methods import load_method
from lofit.report.collect import EvaluatedRun, collect, read_results
from lofit.report.tables import main_table, print_table, write_table
from lofit.report.transfer import draw_transfer, transfer_matrix
from lofit.runs import FitNode, RunTable


def headline(table: RunTable) -> dict[str, str]:
    """Task to headline metric, in the configuration's order."""
    return {name: tasks.load_task(name).headline for name in table.config.tasks}


def evaluated_run(table: RunTable, node: FitNode) -> EvaluatedRun:
    """Where a node's scores and costs are."""
    ranking = node.heads_from
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
        n_heads=node.k[0] if node.k and not load_method(node.method).chooses_k else None,
        n_train=manifest["counts"]["train"]["kept"],
        seed=node.seed,
        eval_task=node.data.task,
        protocol=PROTOCOL,
        eval_path=table.eval_dir(node),
        fit_path=table.run_dir(node) / "fit.json" if load_method(node.method).fit else None,
        localize_path=table.localize_dir(ranking) / "localize.json" if ranking else None,
        activations_paths=tuple(table.activations_dir(used) / "activations.json" for used in activations),
    )


def results_path(table: RunTable) -> Path:
    """The tidy results table."""
    return table.config.results / "results.parquet"


def collect_results(table: RunTable) -> None:
    """Write results.parquet and results.csv."""
    collect([evaluated_run(table, node) for node in table.fits.values()], results_path(table))


def write_main_table(table: RunTable) -> None:
    """Write tables/main.{csv,md,tex}."""
    frame = main_table(read_results(results_path(table)), headline(table))
    write_table(frame, table.config.results / "tables" / "main")


def write_overlap_table(table: RunTable) -> None:
    """Write tables/overlap.{csv,md}: every two rankings of a model, at every number of heads that is edited."""
    parts = []
    for model, counts in table.head_counts().items():
        rankings = {
            "/".join(node.id.split("/")[1:]): frame
            for node in table.localize.values()
            if node.model == model and len(frame := read_ranking(table.localize_dir(node) / "heads.parquet"))
        }
        parts.append(overlap_table(rankings, counts).assign(model=model))
    frame = pd.concat(parts)
    frame = frame[["model", *(name for name in frame.columns if name != "model")]]
    stem = table.config.results / "tables" / "overlap"
    with atomic_path(stem.with_suffix(".csv")) as part:
        frame.to_csv(part, index=False)
    write_text(stem.with_suffix(".md"), frame.to_markdown(index=False, floatfmt=".3g") + "\n")


def draw_transfer_figure(table: RunTable) -> None:
    """Write figures/transfer.{pdf,png,csv}."""
    config = table.config
    if not config.transfer:
        raise ConfigError("transfer: not configured, so there is no figure to draw; add `transfer: {k: 0.10}`")
    chosen = {
        name: metric for name, metric in headline(table).items() if name in (config.transfer.tasks or config.tasks)
    }
    results = read_results(results_path(table))
    results = results[results["task"].isin(chosen) & (results["head_task"].isna() | results["head_task"].isin(chosen))]
    n_heads = {model: config.head_count(model, config.transfer.k) for model in config.models}
    name = config.transfer.method
    selector = table.localizer_of(name)
    matrix = pd.concat(
        [
            transfer_matrix(results[results["model"] == model], chosen, k, method=name, selector=selector)
            for model, k in n_heads.items()
        ]
    )
    draw_transfer(matrix, config.results / "figures" / "transfer", headline=chosen, n_heads=n_heads)


def print_summary(table: RunTable, configfile: Path) -> None:
    """Print the main table, where the files are, and what to do next."""
    results = table.config.results
    print_table(main_table(read_results(results_path(table)), headline(table)))
    console = Console()
    files = [
        ("every score, tidy", results / "results.parquet"),
        ("this table (csv, md, tex)", results / "tables" / "main.md"),
    ]
    if len(table.localize) > 1:
        files.append(("overlap of head rankings (csv, md)", results / "tables" / "overlap.md"))
    if table.config.transfer:
        files.append(("transfer of heads across tasks (png, pdf, csv)", results / "figures" / "transfer.png"))
    files.append(("adapters, losses, per-item scores", results / "runs"))
    console.print("\nFiles")
    for what, path in files:
        console.print(f"  {what}: {path}", soft_wrap=True, highlight=False)
    console.print(
        f"\nNext: edit {configfile} (models, tasks, methods, seeds; `lofit plan` shows what would run) and run\n"
        f"  snakemake --cores 2 --configfile {configfile}\n"
        "again: only what changed is computed.",
        soft_wrap=True,
        highlight=False,
    )
