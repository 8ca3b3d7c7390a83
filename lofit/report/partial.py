"""Tables, figures and the page of what is there while a study runs, or after it was interrupted."""

from __future__ import annotations

from collections.abc import Iterator

from lofit.errors import ReportError
from lofit.plan.kinds import kind_of
from lofit.plan.nodes import Node
from lofit.plan.table import RunTable
from lofit.report.outputs import Output, named, outputs
from lofit.report.parts import collect_results
from lofit.report.paths import items_path, results_path


def of_what_is_there(table: RunTable) -> RunTable:
    """Return the table of the evaluations that have a result, whose outputs are drawn in ``results/partial``.

    Raises:
        ReportError: there are none.
    """

    def there(node: Node) -> bool:
        return kind_of(node).report(table, node).is_file()

    found = sum(map(there, table.evaluations.values()))
    if not found:
        raise ReportError(f"{table.config.results} holds no scores yet; run the workflow first")
    note = f"partial: {found} of {len(table.evaluations)} evaluations"
    return RunTable(table.config, there, table.config.results / "partial", note)


def draw(part: RunTable, name: str | None = None) -> Iterator[tuple[Output, str | None]]:
    """Collect what is there and write tables and figures; for each that cannot be made of it, say why.

    Args:
        part: as :func:`of_what_is_there` returns it.
        name: a table or figure; None for all.

    Yields:
        Every output, with None if it was written, or why it was not.
    """
    for scores in part.parts():
        if part.part(scores):
            collect_results(part, scores)
        else:  # an earlier call may have found some
            results_path(part, scores).unlink(missing_ok=True)
            items_path(part, scores).unlink(missing_ok=True)
    for output in named(part, name) if name else outputs(part):
        problem = _write(part, output)
        if problem:
            output.path(part.drawn).unlink(missing_ok=True)
        yield output, problem


def _write(part: RunTable, output: Output) -> str | None:
    """Write an output, or return why it cannot be."""
    if not output.needs:
        return "none of its runs is done"
    for path in output.needs:
        if not path.exists():
            return f"needs {path}"
    try:
        output.write(part)
    except ReportError as error:
        return str(error)
    return None
