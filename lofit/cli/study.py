"""Commands that begin a study, run it, and say how far it is."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lofit.cli.app import DEFAULT, STUDY, ConfigFile, app, read_table
from lofit.cluster.process import set_up_computing
from lofit.errors import ConfigError
from lofit.files import expanded, shipped
from lofit.registry import unknown

if TYPE_CHECKING:
    from lofit.config import Config
    from lofit.plan.table import RunTable

Configuration = Annotated[Path, typer.Argument(metavar="[CONFIG]", help="Configuration file.")]
Names = list[str] | None


@app.command(rich_help_panel=STUDY)
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; created if it is missing.")] = Path("."),
    like: Annotated[
        str, typer.Option(help="demo, own (a custom task), or a ready configuration: smoke, laptop, paper, ...")
    ] = "demo",
) -> None:
    """Write a configuration to start from, with every key explained. Nothing that exists is replaced."""
    from lofit.config.template import ready_names, write_template

    if like not in (known := ready_names()):
        raise ConfigError(f"--like: {unknown('configuration', like, known)}")
    target = write_template(expanded(folder), like)
    where = "" if target.parent.resolve() == Path.cwd() else f"cd {shlex.quote(str(target.parent))}\n  "
    print(f"{target}: a configuration like '{like}'; edit it. Next:\n  {where}lofit plan\n  lofit run")


@app.command(rich_help_panel=STUDY)
def new(
    part: Annotated[Literal["method", "localizer", "task"], typer.Argument(help="What to begin.")],
    name: Annotated[str, typer.Argument(help="What it is called.")],
    folder: Annotated[Path, typer.Option(help="Folder of plugins; created if it is missing.")] = Path("plugins"),
) -> None:
    """Begin a method, localizer or task of your own: files that work as they stand, to be edited."""
    from lofit.cli.skeleton import write_skeleton

    for file in write_skeleton(part, name, expanded(folder)):
        print(file)
    print(f"Next: edit them, write `plugins: [{folder}]` into a configuration, and name {name} there.")


@app.command(rich_help_panel=STUDY)
def plan(
    configfile: ConfigFile = DEFAULT,
    tflops: Annotated[
        float | None, typer.Option(min=0, help="Sustained TFLOP/s of one device; default: the rate above.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="List every run as well.")] = False,
    models: Annotated[Names, typer.Option("--model", help="Runs of this model alone; repeatable.")] = None,
    tasks: Annotated[Names, typer.Option("--task", help="Runs on this task alone; repeatable.")] = None,
    methods: Annotated[Names, typer.Option("--method", help="Runs of this method alone; repeatable.")] = None,
) -> None:
    """Check a configuration and print its size, about what it costs, and what it makes. Downloads nothing.

    Hours are model FLOPs at a rate: by default what was measured on two CPU cores, or an assumed 125 TFLOP/s where the
    configuration says `device: cuda`.
    """
    from lofit.report.run_table import print_plan

    table = read_table(configfile)
    if asked := _asked(table.config, models, tasks, methods):
        table = type(table)(table.config, asked)
    print_plan(table, configfile, tflops, verbose, whole=not asked)


@app.command(context_settings={"allow_extra_args": True}, rich_help_panel=STUDY)
def run(
    context: typer.Context,
    config: Configuration = DEFAULT,
    only: Annotated[
        Names, typer.Option(help="A table or figure, an experiment's name, or a path of results; repeatable.")
    ] = None,
    models: Annotated[Names, typer.Option("--model", help="Runs of this model alone; repeatable.")] = None,
    tasks: Annotated[Names, typer.Option("--task", help="Runs on this task alone; repeatable.")] = None,
    methods: Annotated[Names, typer.Option("--method", help="Runs of this method alone; repeatable.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Say how many nodes would run, and run none.")
    ] = False,
    cores: Annotated[int | None, typer.Option(min=1, help="Cores to use; default: all, or the profile's.")] = None,
    profile: Annotated[str | None, typer.Option(help="slurm, or a folder with a profile of Snakemake.")] = None,
) -> None:
    """Run the workflow of a configuration. Only what is missing or has changed is computed.

    Options after `--` go to Snakemake: `lofit run config.yaml -- --rerun-incomplete`. What is run for single models,
    tasks or methods is scored, and no tables or figures are made.
    """
    if str(config).startswith("-"):  # what follows `--` where no configuration was named
        context.args.insert(0, str(config))
        config = DEFAULT
    table = read_table(config)
    targets = [str(path) for path in _targets(table, only, _asked(table.config, models, tasks, methods))]
    # -P: a file of the study must not take the place of a library's module of the same name.
    command = [sys.executable, "-P", "-m", "snakemake", "--snakefile", str(shipped("Snakefile")), "--logger", "lofit"]
    command += ["--configfile", str(expanded(config))]
    command += ["--workflow-profile", str(shipped("profiles") / "default")]
    settings = _profile(profile) if profile else None
    command += ["--profile", str(settings)] if settings else []
    if cores or not (settings and _settles_cores(settings)):
        command += ["--cores", str(cores or "all")]
    command += ["--dry-run"] if dry_run else []
    command += [*context.args, *(["--", *targets] if targets else [])]
    os.execv(sys.executable, command)  # signals, the exit status and the terminal are Snakemake's


@app.command(rich_help_panel=STUDY)
def status(
    where: Annotated[
        Path, typer.Argument(metavar="[CONFIG|RESULTS]", help="A configuration, or a folder of results.")
    ] = DEFAULT,
) -> None:
    """Say which nodes are done, running, failed or left, and how long the rest takes. Works while they run."""
    from lofit.report.status import print_status, read_folder

    place = expanded(where)
    print_status(read_folder(place) if place.is_dir() else read_table(where))


@app.command(rich_help_panel=STUDY)
def train(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            "--task-dir",
            help="Folder with train.jsonl and test.jsonl, a data file, or a YAML file naming them.",
        ),
    ],
    method: Annotated[list[str], typer.Option(help="Method to fit; repeatable. The base model is always run.")],
    prompt: Annotated[str | None, typer.Option(help="Text with columns in braces, such as 'Review: {text}'.")] = None,
    label: Annotated[str | None, typer.Option(help="Column with the right choice.")] = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="What is chosen from; repeatable. Default: the labels.")
    ] = None,
    answer: Annotated[str | None, typer.Option(help="Column with the text to generate, instead of a label.")] = None,
    test: Annotated[Path | None, typer.Option(help="File of test rows; default: a fifth of the prompts.")] = None,
    model: Annotated[str, typer.Option(help="Name in the catalogue, or a transformers folder.")] = "smollm2-135m",
    k: Annotated[float, typer.Option(help="Heads to edit: how many (1 or more), or which share of them.")] = 0.10,
    seed: Annotated[list[int] | None, typer.Option(help="Seed of training; repeatable. Default: 42.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Prompts are messages, worded by the chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="Message of the system before them; with --chat.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything that is written.")] = Path("results/train"),
    data_mirror: Annotated[Path | None, typer.Option(help="Folder that stands in for the network.")] = None,
    overlap: Annotated[
        Literal["refuse", "replace", "keep"],
        typer.Option(help="Prompts that training rows share with validation or test: refuse, leave out, or keep them."),
    ] = "refuse",
    reuse: Annotated[list[Path] | None, typer.Option(help="Store to take nodes from; repeatable.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Fit methods on a custom task and compare them with the base model, without the workflow."""
    from lofit.cli import train as trainer
    from lofit.config.results import snapshot_path

    if expanded(Path(model)).is_dir():
        set_up_computing(threads)  # telling its size may import torch
    if system and not chat:
        raise ConfigError("--system: a message of the system is part of a chat; give --chat as well")
    columns = {"prompt": prompt, "label": label, "choices": choice, "answer": answer}
    columns["test"] = str(test.absolute()) if test else None
    read = {key: value for key, value in columns.items() if value}
    given = trainer.configuration(
        data, model, method, k, seed or [42], out, data_mirror, overlap, reuse or (), read, chat, system
    )
    made = trainer.RunTable(given)
    trainer.fetch(made)
    trainer.run(made, threads)
    from lofit.report.summary import print_summary

    print_summary(made, snapshot_path(made.config))


def _asked(config: Config, models: Names, tasks: Names, methods: Names) -> Callable[[Any], bool] | None:
    """Whether a node is an evaluation of what was asked for; None if nothing was."""
    given: dict[str, tuple[Names, Any]] = {
        "model": (models, config.models),
        "task": (tasks, config.tasks),
        "method": (methods, config.methods),
    }
    asked = {what: (names, known) for what, (names, known) in given.items() if names}
    for what, (names, known) in asked.items():
        for name in names or ():
            if name not in known:
                raise ConfigError(f"--{what}: {unknown(what, name, known)}")

    def keep(node: Any) -> bool:
        fit = getattr(node, "fit", None)
        if not fit:
            return False
        own = {"model": fit.model, "task": fit.data.task, "method": fit.method}
        return all(own[what] in (names or ()) for what, (names, _) in asked.items())

    return keep if asked else None


def _targets(table: RunTable, only: Names, asked: Callable[[Any], bool] | None) -> list[Path]:
    """Files that were asked for; none if that is all of them."""
    from lofit.plan.kinds import EVALUATE
    from lofit.report.outputs import named

    if only and asked:
        raise ConfigError("--only names outputs, which have their own runs; give it without --model, --task, --method")
    found: list[Path] = []
    for name in only or ():
        if Path(name).suffix and Path(name).is_relative_to(table.config.results):
            found.append(Path(name))
        else:
            found += [output.path(table.drawn) for output in named(table, name)]
    found += [EVALUATE.report(table, node) for node in table.evaluations.values() if asked and asked(node)]
    if asked and not found:
        raise ConfigError("no run has this --model, --task and --method; `lofit plan --verbose` lists the runs")
    return found


def _settles_cores(profile: Path) -> bool:
    """Whether a profile says how many, or runs jobs elsewhere, which the cores of this machine are not to limit."""
    texts = (file.read_text(encoding="utf-8") for file in profile.glob("config*.yaml"))
    return any(re.search("^(cores|executor):", text, re.MULTILINE) for text in texts)


def _profile(name: str) -> Path:
    """The folder of a profile of the package, or of the user's."""
    if (own := shipped("profiles") / name).is_dir():
        return own
    if (given := expanded(Path(name))).is_dir():
        return given
    names = sorted(entry.name for entry in shipped("profiles").iterdir())
    raise ConfigError(f"--profile: {name} is neither a folder nor one of {', '.join(names)}")
