"""Print the main tables, the paths of the files, and the next steps (``lofit summary``)."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console

from lofit.config.results import is_snapshot
from lofit.errors import ReportError
from lofit.plan.table import MAIN, RunTable
from lofit.report.main import comparison
from lofit.report.outputs import outputs
from lofit.report.partial import draw, of_what_is_there
from lofit.report.parts import is_collected
from lofit.report.tables import print_table


def print_results(table: RunTable) -> None:
    """Print the main tables and the paths of the files."""
    results = table.drawn
    console = Console(markup=False, emoji=False, highlight=False)  # titles and paths are the user's
    for protocol in table.config.protocols:
        try:
            print_table(comparison(table, protocol))
        except ReportError as error:
            if not table.note:
                raise
            console.print(f"Protocol {protocol}: {error}", soft_wrap=True)
    files = [("every score, tidy", results / "results.parquet")]
    files += [(output.title, output.path(results)) for output in outputs(table)]
    files += [("adapters, losses, per-item scores", table.config.results / "runs")]
    files += [("all on one page", results / "report.html")]
    console.print("\nFiles")
    for what, path in files:
        if path.exists():
            console.print(f"  {what}: {path}", soft_wrap=True)


def print_summary(table: RunTable, configfile: Path) -> None:
    """Print the main tables, of what is there by now, the paths of the files, and the commands for the next run."""
    if not is_collected(table, MAIN):
        table = of_what_is_there(table)
        for _ in draw(table):
            pass
        Console(markup=False, emoji=False, highlight=False).print(table.note)
    print_results(table)
    shown, change = shlex.quote(str(configfile)), f"edit {configfile}"
    if is_snapshot(configfile):  # which is written anew
        shown, change = "config.yaml", f"copy {configfile} to config.yaml, edit that"
    Console(markup=False, emoji=False, highlight=False).print(
        f"\nNext: {change} (models, tasks, methods, seeds), see what would run, and run it again:\n"
        f"  lofit plan --configfile {shown}\n"
        f"  lofit run {shown}\n"
        "Only what changed is computed.",
        soft_wrap=True,
    )
