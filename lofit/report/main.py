"""The main comparison: the table of methods by task, the same as dots, and scores against costs."""

from __future__ import annotations

import pandas as pd

from lofit.plan.table import MAIN, RunTable
from lofit.report.cells import headline_rows
from lofit.report.compare import main_rows
from lofit.report.experiments import points
from lofit.report.figures import draw_dots, draw_pareto
from lofit.report.outputs import COSTS, Output
from lofit.report.parts import read_part
from lofit.report.paths import headline
from lofit.report.tables import cells, main_table, write_table
from lofit.spec.protocol import Protocol, table_name


def comparison(table: RunTable, protocol: Protocol) -> pd.DataFrame:
    """Return the main table under one protocol."""
    results, items = read_part(table, MAIN)
    chosen = headline(table, protocol)
    rows = results[(results["protocol"] == protocol) & results["task"].isin(chosen)]
    return main_table(rows, chosen, items)


def scores(table: RunTable, protocol: Protocol) -> pd.DataFrame:
    """Return the numbers of the main table under one protocol, as :func:`lofit.report.tables.cells` does."""
    chosen = headline(table, protocol)
    _, items = read_part(table, MAIN)
    return cells(headline_rows(main_rows(table, protocol), chosen), chosen, items)


def write(table: RunTable, output: Output) -> None:
    """Write the main table of the protocol that ``output.name`` names, draw it, or draw scores against costs."""
    if output.name == COSTS:
        _, items = read_part(table, MAIN)
        chosen = headline(table)
        frame = points(main_rows(table, table.config.protocols[0]), chosen, items)
        draw_pareto(frame, table.drawn / output.id, title=output.title)
        return
    protocol = next(known for known in table.config.protocols if table_name(known) == output.name)
    if output.kind == "figure":
        draw_dots(scores(table, protocol), table.drawn / output.id, title=output.title)
    else:
        write_table(comparison(table, protocol), table.drawn / output.id, title=output.title if table.note else "")
