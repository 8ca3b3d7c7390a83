"""The main table: methods by task, under one protocol."""

from __future__ import annotations

import pandas as pd

from lofit.plan.table import MAIN, RunTable
from lofit.report.outputs import Output
from lofit.report.parts import read_part
from lofit.report.paths import headline
from lofit.report.tables import main_table, write_table
from lofit.spec.protocol import Protocol, table_name


def comparison(table: RunTable, protocol: Protocol) -> pd.DataFrame:
    """Return the main table under one protocol."""
    results, items = read_part(table, MAIN)
    chosen = headline(table, protocol)
    rows = results[(results["protocol"] == protocol) & results["task"].isin(chosen)]
    return main_table(rows, chosen, items)


def write(table: RunTable, output: Output) -> None:
    """Write the main table of the protocol that ``output.name`` stands for."""
    protocol = next(known for known in table.config.protocols if table_name(known) == output.name)
    write_table(comparison(table, protocol), table.drawn / output.id, title=output.title if table.note else "")
