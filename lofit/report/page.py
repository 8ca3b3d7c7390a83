"""The HTML report: one self-contained page with results, costs, failures and the configuration to run it again."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2
import pandas as pd
import yaml
from markdown_it import MarkdownIt

from lofit.errors import ReportError
from lofit.files import write_text
from lofit.plan.kinds import counts
from lofit.plan.store import origins
from lofit.plan.table import ALL, RunTable
from lofit.report.collect import read_results
from lofit.report.costs import costs_table, node_reports, surroundings
from lofit.report.outputs import Output, outputs
from lofit.report.paths import results_path
from lofit.report.style import PNG_DPI
from lofit.report.tables import remarks

_SCREEN_DPI = 120
"""Resolution at which figures are shown. At the 96 dots per inch of CSS, text of 9 points would be small."""

_LONG = 30
"""Tables with more lines than this are folded."""


@dataclass(frozen=True)
class Section:
    """A table or figure as the page shows it.

    Attributes:
        output: the table or figure.
        body: HTML of a table; for a figure, its PNG as a data URI.
        folded: whether the table is folded because it is long.
        width: width of a figure in CSS pixels.
    """

    output: Output
    body: str
    folded: bool = False
    width: int = 0


def write_report(table: RunTable) -> Path:
    """Write ``report.html``, which needs no other file and no network.

    Returns:
        The path of the page.

    Raises:
        ReportError: a table or figure has not been made yet.
    """
    results = read_results(results_path(table, ALL))
    reports = list(node_reports(table))
    costs = costs_table(reports)
    template = _environment().from_string(files("lofit.report").joinpath("page.html.j2").read_text(encoding="utf-8"))
    page = template.render(
        config=table.config,
        counts=counts(table),
        sections=[
            _section(output, table.drawn)
            for output in outputs(table)
            if not table.note or output.path(table.drawn).is_file()
        ],
        note=table.note,
        failures=failures(results),
        remarks=item_remarks(results),
        n_runs=results["run_id"].nunique(),
        costs=costs.to_dict("records"),
        hours=costs["hours"].sum(),
        origins=origins(table),
        places=surroundings(reports).to_dict("records"),
        configuration=configuration_text(table),
    )
    target = table.drawn / "report.html"
    write_text(target, page)
    return target


def configuration_text(table: RunTable) -> str:
    """Return the configuration as YAML, with all defaults but without ``data_mirror``."""
    values = table.config.model_dump(mode="json", exclude={"data_mirror"})
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)


def failures(results: pd.DataFrame) -> list[dict[str, str]]:
    """Return ``run``, ``scored on`` and ``reason`` of every failure, in the order of the results."""
    failed = results[results["status"] != "ok"]
    return [
        {
            "run": row["run_id"],
            "scored on": row["eval_task"],
            "reason": row["status"].removeprefix("failed: "),
        }
        for row in failed.to_dict("records")
    ]


def item_remarks(results: pd.DataFrame) -> list[dict[str, str]]:
    """Return ``run``, ``scored on`` and ``items`` (the remark) of every evaluation with remarks on its items."""
    evaluations = results.drop_duplicates(["run_id", "eval_task", "eval_fold", "protocol"])
    return [
        {"run": row["run_id"], "scored on": f"{row['eval_task']}, protocol {row['protocol']}", "items": remark}
        for row in evaluations.to_dict("records")
        for remark in remarks(pd.DataFrame([row]))
    ]


def _section(output: Output, results: Path) -> Section:
    path = output.path(results)
    if not path.is_file():
        raise ReportError(f"{path} is not there; run the workflow first")
    if output.kind == "figure":
        data = path.read_bytes()
        dots = int.from_bytes(data[16:20], "big")  # the width in the header of a PNG
        encoded = base64.b64encode(data).decode("ascii")
        return Section(output, f"data:image/png;base64,{encoded}", width=dots * _SCREEN_DPI // PNG_DPI)
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    if lines[0].startswith("**"):  # the title, which the page shows as a heading
        text = "\n".join(lines[1:])
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return Section(output, body, folded=sum(line.startswith("|") for line in lines) > _LONG)


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["number"] = lambda value, digits=1: "-" if pd.isna(value) else f"{value:,.{digits}f}"
    return made
