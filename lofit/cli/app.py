"""The application: its options, its configuration, and how errors are told."""

from __future__ import annotations

import os
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from lofit.cluster.watchdog import end_on_interrupt, end_with_snakemake
from lofit.errors import ConfigError, LofitError, error_lines, redacted, system_error
from lofit.files import expanded

if TYPE_CHECKING:
    from lofit.plan.table import RunTable

app = typer.Typer(
    help="LoFiT Bench: localized fine-tuning on LLM representations, compared under one protocol.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

STUDY, RESULTS, USE = "Run a study", "Look at results", "Use what was fitted"
TROUBLE = "When something went wrong"
"""Groups of commands in the help."""


def _version(wanted: bool) -> None:
    if wanted:
        from lofit import __version__

        print(f"lofit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


ConfigFile = Annotated[
    Path, typer.Option("--configfile", envvar="LOFIT_CONFIG", help="Configuration; the workflow sets the variable.")
]
DEFAULT = Path("config.yaml")


def read_table(configfile: Path) -> RunTable:
    """The run table of a configuration; as of its last change."""
    file = expanded(configfile)
    return _parsed(file, Path.cwd(), os.stat(file).st_mtime_ns if os.path.isfile(file) else 0)


@cache  # a server that reads it passes it on to the nodes that are forked from it
def _parsed(configfile: Path, folder: Path, modified: int) -> RunTable:
    from lofit.config import load_config
    from lofit.plan.table import RunTable

    return RunTable(load_config(configfile))


def main() -> NoReturn:
    """Run the command line; an error of the user or the system is one line, a bug its traceback, none with secrets."""
    end_on_interrupt()
    try:
        end_with_snakemake()
        app(standalone_mode=True)
    except LofitError as error:
        print(error_lines(error), file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except Exception as error:
        text = system_error(error)
        print(redacted(f"error: {text}\n" if text else traceback.format_exc()), end="", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)
