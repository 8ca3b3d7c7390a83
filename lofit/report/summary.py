"""Print the main tables, the paths of the files, and the next steps (``lofit summary``)."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console

from lofit.plan.table import RunTable
from lofit.report.main import comparison
from lofit.report.outputs import outputs
from lofit.report.tables import print_table


def print_results(table: RunTable) -> None:
    """Print the main tables and the paths of the files."""
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
    """Print the main tables, the paths of the files, and the commands for the next run."""
    print_results(table)
    option = f"--configfile {shlex.quote(str(configfile))}"
    Console(markup=False, emoji=False, highlight=False).print(
        f"\nNext: edit {configfile} (models, tasks, methods, seeds), see what would run, and run it again:\n"
        f"  lofit plan {option}\n"
        f"  snakemake --cores 2 {option}\n"
        "Only what changed is computed.",
        soft_wrap=True,
    )
