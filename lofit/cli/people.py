"""Commands for people."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from lofit.cli.app import DEFAULT, RESULTS, TROUBLE, USE, ConfigFile, app, read_table
from lofit.cluster import slurm
from lofit.cluster.process import set_up_computing
from lofit.errors import ConfigError
from lofit.files import expanded

cluster = typer.Typer(help="Jobs of the workflow on a SLURM cluster; docs/cluster.md.", no_args_is_help=True)
app.add_typer(cluster, name="slurm", rich_help_panel=TROUBLE)

RunId = Annotated[str, typer.Option("--run", help="Id of a fit, as `lofit plan --verbose` lists them.")]


@app.command(rich_help_panel=RESULTS)
def expected(configfile: ConfigFile = DEFAULT) -> None:
    """Print for how many cells of each table there are published values. `tables/expected.md` compares them."""
    from lofit.report.run_table import print_expected

    print_expected(read_table(configfile))


Form = Annotated[
    Literal["hf", "peft", "steered", "gguf"],
    typer.Option(
        "--format",
        help="hf: a plain checkpoint with the edit folded in; peft: the adapter; steered: vectors for lm-eval's model "
        "of that name; gguf: a control vector for llama.cpp.",
    ),
]


@app.command(rich_help_panel=USE)
def export(
    run: RunId,
    out: Annotated[
        Path, typer.Option(help="Folder to write: a new one, an empty one, or an earlier export, which is replaced.")
    ],
    form: Form = "hf",
    configfile: ConfigFile = DEFAULT,
) -> None:
    """Write a fitted run as a folder for use elsewhere, with a model card."""
    table = read_table(configfile)
    set_up_computing(table.config.threads)
    from lofit.nodes.export import export as write_export

    write_export(table, table.find(table.fits, run), expanded(out), form)
    print(f"{run}: {out}")


@app.command(rich_help_panel=USE)
def push(
    run: RunId,
    repo: Annotated[str, typer.Option(help="Model repository, as owner/name; it is created if it is not there.")],
    form: Form = "peft",
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    configfile: ConfigFile = DEFAULT,
) -> None:
    """Upload a fitted run, as `lofit export` writes it, to the Hugging Face hub. HF_TOKEN has to allow it."""
    table = read_table(configfile)
    set_up_computing(table.config.threads, offline=False)
    from lofit.nodes.export import push as upload

    print(upload(table, table.find(table.fits, run), repo, form, private=private))


@app.command(rich_help_panel=USE)
def generate(
    run: RunId,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Text to continue; repeatable. -: each line of the input. Default: prompts are asked for."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens to generate.")] = 64,
    chat: Annotated[bool, typer.Option("--chat", help="Prompts are messages, worded by the chat template.")] = False,
    configfile: ConfigFile = DEFAULT,
) -> None:
    """Continue prompts with the base model and with a fitted run, one below the other."""
    table = read_table(configfile)
    node = table.find(table.fitted | table.tuned, run)
    set_up_computing(table.config.threads)
    from lofit.nodes.generate import generator

    continued = generator(table, node, tokens, chat=chat)
    given = sys.stdin.read().splitlines() if prompt == ["-"] else prompt
    for texts in [given] if given else iter(_asked, None):
        for text, (before, after) in zip(texts, continued(texts), strict=True):
            print(f"prompt: {text}\nbase: {before}\n{node.method}: {after}\n")


def _asked() -> list[str] | None:
    """A prompt that somebody types; None at the end."""
    try:
        return [input("prompt> ")]
    except EOFError:
        return None


@app.command(rich_help_panel=RESULTS)
def render(
    name: Annotated[str, typer.Argument(help="A table or figure, such as main or figures/overlap; or report.")],
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Of what is done by now, into the folder `partial` of the results."),
    ] = False,
    configfile: ConfigFile = DEFAULT,
) -> None:
    """Write one table or figure anew, or the page of all of them, from the results that are there."""
    from lofit.report.outputs import named

    table = read_table(configfile)
    if partial:
        from lofit.report.partial import draw, of_what_is_there

        table = of_what_is_there(table)
        for output, lost in draw(table, None if name == "report" else name):
            print(f"not yet {output.id}: {lost}" if lost else output.path(table.drawn))
    elif name != "report":
        for output in named(table, name):
            output.write(table)
            print(output.path(table.drawn))
    if name == "report":
        from lofit.report.page import write_report

        print(write_report(table))


@app.command(rich_help_panel=RESULTS)
def compare(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT|main", help="What was run.")],
    against: Annotated[
        str | None,
        typer.Option(help="Compare with this arm or method, or a unique part of its name; default: the primary one."),
    ] = None,
    every: Annotated[bool, typer.Option("--every-pair", help="Compare every two arms.")] = False,
    configfile: ConfigFile = DEFAULT,
) -> None:
    """Print how far arms of an experiment, or the methods, differ on the same items, with tests, as Markdown."""
    from lofit.report import compare as comparing

    print(comparing.markdown(*comparing.compare(read_table(configfile), name, against, every_pair=every)))


@app.command(rich_help_panel=RESULTS)
def show(
    name: Annotated[str, typer.Argument(metavar="TABLE", help="A main table, or an experiment with scores.")],
    row: Annotated[str, typer.Argument(help="A method or arm as the table has it, or a unique part of its name.")],
    column: Annotated[str, typer.Argument(help="A task.")],
    model: Annotated[str | None, typer.Option(help="A model, if the table has several.")] = None,
    items: Annotated[int, typer.Option(min=0, help="Test items of each run to show.")] = 3,
    only: Annotated[Literal["all", "right", "wrong"], typer.Option(help="Which items to show.")] = "all",
    configfile: ConfigFile = DEFAULT,
) -> None:
    """Print what is behind one cell of a table: runs, seeds, settings, and items with what was answered."""
    from lofit.report.show import show as lines

    for line in lines(read_table(configfile), name, row, column, model, items, only):
        print(line)


@app.command(rich_help_panel=RESULTS)
def site(
    studies: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Results folders of studies.")],
    out: Annotated[
        Path, typer.Option(help="Folder to write: a new one, an empty one, or an earlier site, which is replaced.")
    ] = Path("site"),
) -> None:
    """Write a static site over several studies: a leaderboard, and the page of each."""
    from lofit.report.site import write_site

    print(write_site([expanded(study) for study in studies], expanded(out)))


@app.command(rich_help_panel=RESULTS)
def lens(
    run: RunId,
    k: Annotated[int, typer.Option("-k", min=1, help="Tokens of each head.")] = 10,
    final_norm: Annotated[bool, typer.Option("--final-norm", help="Apply the model's final norm first.")] = False,
    configfile: ConfigFile = DEFAULT,
) -> None:
    """Print which tokens the offset of each edited head pushes the model towards (logit lens), as Markdown."""
    table = read_table(configfile)
    node = table.find(table.fitted | table.tuned, run)
    set_up_computing(table.config.threads)
    from lofit.report.lens import lens_table

    print(lens_table(table, node, k, final_norm).to_markdown(index=False))


@app.command(rich_help_panel=RESULTS)
def summary(configfile: ConfigFile = DEFAULT) -> None:
    """Print the main table, where the files are, and what to do next."""
    from lofit.report.summary import print_summary

    print_summary(read_table(configfile), configfile)


@app.command("mark-failed", rich_help_panel=TROUBLE)
def mark_failed(
    run: Annotated[
        list[str] | None, typer.Option(help="Id of a node, or a part that no other has; repeatable.")
    ] = None,
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
        raise ConfigError("mark-failed: name nodes with --run, or give --all")
    table = read_table(configfile)
    set_up_computing(table.config.threads)
    from lofit.nodes import mark_failed as marking

    count = 0
    for name in marking.mark_failed(table, None if everything else run):
        print(f"failed from now on: {name}")
        count += 1
    print(f"{count} marked as failed; the workflow goes on without them" if count else "nothing to mark")


@cluster.command()
def orphans(
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel them.")] = False,
    directory: Annotated[Path, typer.Option(help="Folder in which snakemake was started.")] = Path("."),
) -> None:
    """List, or cancel, jobs that a killed workflow left in SLURM's queue."""
    from rich.console import Console
    from rich.table import Table

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
        print(f"cancelled {len(found)}; next: lofit run CONFIG -- --unlock, then run again")
    else:
        print("`lofit slurm orphans --cancel` cancels them; a new run before that would compute their nodes twice")
