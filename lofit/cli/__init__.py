"""The command line: one verb per kind of node, and a few for people."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from lofit.cluster.watchdog import end_with_snakemake
from lofit.errors import ConfigError, LofitError, redacted, system_error
from lofit.files import expanded, only_writer

app = typer.Typer(
    help="LoFiT Bench: localized fine-tuning on LLM representations, compared under one protocol.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path, typer.Option("--configfile", envvar="LOFIT_CONFIG", help="Configuration; the workflow sets the variable.")
]
RunId = Annotated[str, typer.Option("--run", help="Id of the node; `lofit plan` lists fits, `snakemake -n` all.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: threads of the configuration.")]
DEFAULT = Path("config.yaml")

cluster = typer.Typer(help="Jobs of the workflow on a SLURM cluster; docs/cluster.md.", no_args_is_help=True)
app.add_typer(cluster, name="slurm")


def read_table(configfile: Path):  # type: ignore[no-untyped-def]  # the return type would import the world
    """The run table of a configuration; as of its last change."""
    file = expanded(configfile)
    return _parsed(file, Path.cwd(), os.stat(file).st_mtime_ns if os.path.isfile(file) else 0)


@cache  # a server that reads it passes it on to the nodes that are forked from it
def _parsed(configfile: Path, folder: Path, modified: int):  # type: ignore[no-untyped-def]
    from lofit.config import load_config
    from lofit.plan.table import RunTable

    return RunTable(load_config(configfile))


def _set_up(table, model: str, threads: int | None) -> None:  # type: ignore[no-untyped-def]
    """Set this process up for a node that runs a model, GPUs included."""
    if table.config.device == "cuda":
        from lofit.cluster.gpus import take_gpus

        take_gpus(table.config.model_entry(model).gpus)
    set_up_computing(threads or table.config.threads)


def set_up_computing(threads: int) -> None:
    """Set this process up for computing, before torch is imported: threads, determinism, no network."""
    os.environ.update(
        OMP_NUM_THREADS=str(threads),
        TOKENIZERS_PARALLELISM="false",
        HF_HUB_OFFLINE="1",  # models and data are local by now
        HF_DATASETS_OFFLINE="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        CUBLAS_WORKSPACE_CONFIG=":4096:8",
    )
    # PEFT imports bitsandbytes wherever it is installed, which then tells of kernels that it did not find.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import torch

    torch.set_num_threads(threads)
    if "numpy" in sys.modules:  # imported with another number, in a server of nodes
        from threadpoolctl import threadpool_limits

        threadpool_limits(threads, "blas")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time for nothing


@app.command()
def plan(
    configfile: ConfigFile = DEFAULT,
    tflops: Annotated[
        float | None, typer.Option(min=0, help="Sustained TFLOP/s of one device, for the hours; default: see below.")
    ] = None,
) -> None:
    """Check a configuration and print its run table, its size and about what it costs. Downloads nothing.

    Hours are model FLOPs at a rate: by default what was measured on two CPU cores, or an assumed 125 TFLOP/s where the
    configuration says `device: cuda`.
    """
    from rich.console import Console
    from rich.table import Table

    from lofit.plan.estimate import RATES, costs

    table = read_table(configfile)
    view = Table(title=f"Run table of {configfile}")
    view.add_column("run", no_wrap=True)
    for column in ("selector", "head_task", "k"):
        view.add_column(column)
    rows = table.summary()
    for row in rows:
        view.add_row(row["run"], row["selector"] or "-", row["head_task"] or "-", row["k"] or "-")
    # Ids are there to be copied and searched for, so they are never broken over lines.
    console = Console(soft_wrap=True, width=max([80, *(len(row["run"]) + 40 for row in rows)]))
    console.print(view, soft_wrap=True)
    rate, unit = tflops or RATES[table.config.device], "GPU hours" if table.config.device == "cuda" else "hours"
    found, unknown = costs(table)
    total = sum(cost.hours(rate) for cost in found.values())
    nodes = sum(cost.nodes for cost in found.values())
    sizes = Table(title=f"{nodes:,} nodes; about {total:,.0f} {unit} at {rate:g} TFLOP/s")
    sizes.add_column("rule")
    for column in ("nodes", "PFLOP", unit):
        sizes.add_column(column, justify="right")
    for kind, cost in found.items():
        known = [f"{cost.operations / 1e15:,.1f}", f"{cost.hours(rate):,.1f}"] if cost.operations else ["", ""]
        sizes.add_row(kind, f"{cost.nodes:,}", *known)
    console.print(sizes)
    lost = f"; not counted, since their size is not known: {', '.join(unknown)}" if unknown else ""
    console.print(f"An upper estimate, with starting nodes and reading weights (lofit/plan/estimate.py){lost}.")


@app.command()
def model(name: Annotated[str, typer.Argument(help="A configured model.")], configfile: ConfigFile = DEFAULT) -> None:
    """Fetch a model into a plain transformers folder."""
    from lofit.nodes import prepare as node

    table = read_table(configfile)
    node.fetch(table, name)
    print(f"{name}: {table.model_dir(name)}")


@app.command()
def prepare(run: RunId, configfile: ConfigFile = DEFAULT) -> None:
    """Fetch and split the data of one task for one fold and seed."""
    from lofit.nodes import prepare as node

    table = read_table(configfile)
    found = table.find(table.data, run)
    node.prepare(table, found)
    print(f"{run}: {table.data_dir(found)}")


@app.command()
def activations(run: RunId, configfile: ConfigFile = DEFAULT, threads: Threads = None) -> None:
    """Read a model's activations on right and wrong answers of one task."""
    table = read_table(configfile)
    found = table.find(table.activations, run)
    _set_up(table, found.model, threads)
    from lofit.nodes import activations as node

    with only_writer(table.activations_dir(found)):
        node.run(table, found)
    print(f"{run}: {node.summary_line(table.activations_dir(found))}")


@app.command()
def localize(run: RunId, configfile: ConfigFile = DEFAULT, threads: Threads = None) -> None:
    """Rank the attention heads of a model on one task."""
    table = read_table(configfile)
    found = table.find(table.localize, run)
    _set_up(table, found.model, threads)
    from lofit.nodes import localize as node

    with only_writer(table.localize_dir(found)):
        node.run(table, found)
    print(f"{run}: {node.summary_line(table.localize_dir(found))}")


@app.command()
def fit(run: RunId, configfile: ConfigFile = DEFAULT, threads: Threads = None) -> None:
    """Fit one method: train it, or estimate it."""
    table = read_table(configfile)
    found = table.find(table.fits, run)
    _set_up(table, found.model, threads)
    from lofit.nodes import fit as node

    with only_writer(table.run_dir(found)):
        node.run(table, found)
    print(f"{run}: {node.summary_line(table.run_dir(found))}")


@app.command()
def choose(run: RunId, configfile: ConfigFile = DEFAULT) -> None:
    """Keep the best of the settings that a search tried, by validation loss."""
    table = read_table(configfile)
    from lofit.nodes import select_best as choice

    found = table.find(table.tuned, run)
    choice.run(table, found)
    print(f"{run}: {choice.summary_line(table.run_dir(found))}")


@app.command()
def evaluate(
    run: RunId,
    on: Annotated[str | None, typer.Option(help="Task to score it on; default: the one it was fitted for.")] = None,
    fold: Annotated[int | None, typer.Option(help="Fold of that task; default: the only one.")] = None,
    protocol: Annotated[str | None, typer.Option(help="paper, harness or open; default: the first configured.")] = None,
    configfile: ConfigFile = DEFAULT,
    threads: Threads = None,
) -> None:
    """Score one fitted method on a task's test items with lm-evaluation-harness."""
    table = read_table(configfile)
    found = table.evaluation(table.find(table.fits, run), on, fold, protocol)
    _set_up(table, found.fit.model, threads)
    from lofit.nodes import evaluate as node

    with only_writer(table.eval_dir(found)):
        node.run(table, found)
    print(f"{found.id}: {node.summary_line(table.eval_dir(found))}")


@app.command()
def train(
    task_dir: Annotated[Path, typer.Option(help="Folder with train.jsonl and test.jsonl, or a YAML file naming them.")],
    method: Annotated[list[str], typer.Option(help="Method to fit; as often as wanted. The base model is always run.")],
    model: Annotated[str, typer.Option(help="Name of the catalogue, or a transformers folder.")] = "smollm2-135m",
    k: Annotated[float, typer.Option(help="Heads to edit: how many (1 or more), or which share of them.")] = 0.10,
    seed: Annotated[int, typer.Option(help="Seed of training.")] = 42,
    out: Annotated[Path, typer.Option(help="Folder for everything that is written.")] = Path("results/train"),
    data_mirror: Annotated[Path | None, typer.Option(help="Folder that stands in for the network.")] = None,
    overlap: Annotated[
        Literal["refuse", "replace", "keep"],
        typer.Option(help="Prompts that training rows share with validation or test: refuse, leave out, or keep them."),
    ] = "refuse",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Fit methods on a task of your own and compare them with the base model, without the workflow."""
    from lofit.cli import train as trainer
    from lofit.plan.table import RunTable
    from lofit.report.node import print_results

    if expanded(Path(model)).is_dir():
        set_up_computing(threads)  # telling its size may import torch
    made = RunTable(trainer.configuration(task_dir, model, method, k, seed, out, data_mirror, overlap))
    trainer.fetch(made)
    trainer.run(made, threads)
    print_results(made)


@app.command()
def export(
    run: RunId,
    out: Annotated[
        Path, typer.Option(help="Folder to write: a new one, an empty one, or an earlier export, which is replaced.")
    ],
    form: Annotated[
        Literal["hf", "peft"],
        typer.Option("--format", help="hf: a plain checkpoint with the edit folded in; peft: the adapter."),
    ] = "hf",
    configfile: ConfigFile = DEFAULT,
) -> None:
    """Write a fitted run as a folder for use elsewhere, with a model card."""
    table = read_table(configfile)
    set_up_computing(table.config.threads)
    from lofit.nodes import export as exporter

    exporter.export(table, table.find(table.fits, run), expanded(out), form)
    print(f"{run}: {out}")


@app.command()
def collect(
    part: Annotated[str, typer.Argument(help="all, main, transfer, or an experiment.")] = "all",
    configfile: ConfigFile = DEFAULT,
) -> None:
    """Gather scores into results.parquet and results.csv: all of them, or those that one output needs."""
    table = read_table(configfile)
    if part not in (known := table.parts()):
        raise ConfigError(f"no results called '{part}' in this configuration; it has: {', '.join(known)}")
    from lofit.report import node

    node.collect_results(table, part)


@app.command()
def table(configfile: ConfigFile = DEFAULT) -> None:
    """Write the main table, method by task, under every protocol."""
    from lofit.report import node

    node.write_main_tables(read_table(configfile))


@app.command()
def suite(configfile: ConfigFile = DEFAULT) -> None:
    """Write each method's difference to base and to full fine-tuning, averaged over tasks."""
    from lofit.report import node

    node.write_suite_table(read_table(configfile))


@app.command()
def retention(configfile: ConfigFile = DEFAULT) -> None:
    """Write what fitting each method for one task cost on others."""
    from lofit.report import node

    node.write_retention_table(read_table(configfile))


@app.command()
def search(configfile: ConfigFile = DEFAULT) -> None:
    """Write what every search tried, with validation losses and what was chosen."""
    from lofit.report.search import write_search_table

    write_search_table(read_table(configfile))


@app.command()
def overlap(configfile: ConfigFile = DEFAULT) -> None:
    """Write how alike the rankings of heads are, against chance."""
    from lofit.report.overlap import write_overlap

    write_overlap(read_table(configfile))


@app.command()
def expected(configfile: ConfigFile = DEFAULT) -> None:
    """Write published values beside ours, for the runs that have a published counterpart."""
    from lofit.report.expected import write_expected_table

    write_expected_table(read_table(configfile))


@app.command()
def figure(configfile: ConfigFile = DEFAULT) -> None:
    """Draw the transfer heat map."""
    from lofit.report import node

    node.draw_transfer_figure(read_table(configfile))


@app.command()
def experiment(
    name: Annotated[str, typer.Argument(help="A configured one.")], configfile: ConfigFile = DEFAULT
) -> None:
    """Write the table or figure of an experiment."""
    table = read_table(configfile)
    if name not in table.config.experiments:
        known = ", ".join(table.config.experiments) or "none"
        raise ConfigError(f"no experiment '{name}' in this configuration; it has: {known}")
    from lofit.report.experiments import write_experiment

    write_experiment(table, name)


@app.command()
def compare(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="A configured one that was run.")],
    against: Annotated[str | None, typer.Option(help="Compare with this arm alone; default: every two arms.")] = None,
    configfile: ConfigFile = DEFAULT,
) -> None:
    """Print how far arms of an experiment differ on the same test items, with intervals and tests, as Markdown."""
    from lofit.report import compare as comparing

    print(comparing.markdown(*comparing.compare(read_table(configfile), name, against)))


@app.command()
def report(configfile: ConfigFile = DEFAULT) -> None:
    """Write report.html: tables, figures, costs, failures and how to run it again, on one page."""
    from lofit.report.page import write_report

    print(write_report(read_table(configfile)))


@app.command()
def summary(configfile: ConfigFile = DEFAULT) -> None:
    """Print the main table, where the files are, and what to do next."""
    from lofit.report import node

    node.print_summary(read_table(configfile), configfile)


@app.command()
def settle(
    run: Annotated[list[str] | None, typer.Option(help="Id of a node; as often as wanted.")] = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Every node that was killed: it was started, has what it needs and left no result."),
    ] = False,
    configfile: ConfigFile = DEFAULT,
) -> None:
    """Make nodes that were killed failed runs, so that the next run of the workflow goes on without them.

    In the folder that the workflow was run in. What it writes can be deleted to have a node computed again.
    """
    if bool(run) == everything:
        raise ConfigError("settle: name nodes with --run, or give --all")
    table = read_table(configfile)
    set_up_computing(table.config.threads)
    from lofit.nodes import mark_failed as settling

    count = 0
    for name in settling.settle(table, None if everything else run):
        print(f"failed from now on: {name}")
        count += 1
    print(f"{count} settled; `snakemake` goes on without them" if count else "nothing to settle")


@app.command()
def schema() -> None:
    """Print the configuration's JSON schema as YAML (workflow/schemas/config.schema.yaml)."""
    import yaml

    from lofit.config import json_schema

    print("# Generated by `lofit schema`; do not edit.")
    print(yaml.safe_dump(json_schema(), sort_keys=False, allow_unicode=True, width=110), end="")


@cluster.command()
def orphans(
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel them.")] = False,
    directory: Annotated[Path, typer.Option(help="Folder in which snakemake was started.")] = Path("."),
) -> None:
    """List, or cancel, jobs that a killed workflow left in SLURM's queue."""
    from rich.console import Console
    from rich.table import Table

    from lofit.cluster import slurm

    directory = expanded(directory)
    found = slurm.orphans(directory)
    if not found:
        print(f"no jobs of a workflow in {directory.resolve()} are in the queue")
        return
    view = Table(title=f"Jobs left behind in {directory.resolve()}")
    for column in ("job", "state", "time", "rule and wildcards"):
        view.add_column(column, overflow="fold")
    for job in found:
        view.add_row(job.id, job.state, job.time, job.comment)
    Console().print(view)
    if cancel:
        slurm.cancel(found)
        print(f"cancelled {len(found)}; next: snakemake --unlock, then run again")
    else:
        print("`lofit slurm orphans --cancel` cancels them; a new run before that would compute their nodes twice")


def main() -> NoReturn:
    """Run the command line; an error of the user or the system is one line, a bug its traceback, none with secrets."""
    try:
        end_with_snakemake()
        app(standalone_mode=True)
    except LofitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except Exception as error:
        text = system_error(error)
        print(redacted(f"error: {text}\n" if text else traceback.format_exc()), end="", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)
