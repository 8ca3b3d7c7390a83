"""The HTML report: one self-contained page with findings, tables, figures, items, costs and failures.

It works from a file and without a network. Without JavaScript, figures are pictures, and items are left out.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markdown_it import MarkdownIt
from PIL import Image

from lofit.errors import ReportError
from lofit.files import write_text
from lofit.plan.kinds import PREPARE, counts
from lofit.plan.nodes import DataNode
from lofit.plan.store import origins
from lofit.plan.table import ALL, MAIN, RunTable
from lofit.report import interactive
from lofit.report.collect import read_results
from lofit.report.costs import costs_table, node_reports, surroundings
from lofit.report.findings import NOTE, findings
from lofit.report.outputs import Output, outputs
from lofit.report.page_data import page_data
from lofit.report.paths import headline, results_path
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
        legend: HTML of what is below a table.
        caption: what the picture of a figure says below it.
        panels: interactive form of a figure; empty if it has none.
        twin: whether there is a table and a figure of this name.
        folded: whether the table is folded because it is long.
        width: width of a figure in CSS pixels.
    """

    output: Output
    body: str
    legend: str = ""
    caption: str = ""
    panels: tuple[interactive.Panel, ...] = ()
    twin: bool = False
    folded: bool = False
    width: int = 0

    @property
    def id(self) -> str:
        """Of its element on the page."""
        return f"{self.output.kind}-{self.output.name}"


def write_report(table: RunTable) -> Path:
    """Write ``report.html``, which needs no other file and no network.

    Returns:
        The path of the page.

    Raises:
        ReportError: a table or figure has not been made yet.
    """
    results = read_results(results_path(table, ALL))
    reports = list(node_reports(table))
    costs, places = costs_table(reports), surroundings(reports)
    shown = [output for output in outputs(table) if not table.note or output.path(table.drawn).is_file()]
    names = [output.name for output in shown]
    sections = [_section(output, table.drawn, names.count(output.name) > 1) for output in shown]
    compared = results_path(table, MAIN).is_file()  # not if nothing of the main comparison is there yet
    page = document(
        "page.html.j2",
        panels={section.id: section.panels for section in sections if section.panels},
        data=page_data(table) if compared else {"runs": []},
        config=table.config,
        study="LoFiT Bench" if table.config.results.name == "results" else table.config.results.name,
        date=f"{datetime.fromtimestamp(results_path(table, ALL).stat().st_mtime, UTC):%Y-%m-%d}",
        commits=sorted({commit[:10] for commit in places["commit"] if commit}),
        counts=counts(table),
        findings=findings(table) if compared else [],
        findings_note=NOTE,
        sections=sections,
        note=table.note,
        drawn=table.drawn,
        failures=failures(results),
        remarks=item_remarks(results),
        n_runs=results["run_id"].nunique(),
        tasks=data_of_tasks(table),
        costs=costs.to_dict("records"),
        hours=costs["hours"].sum(),
        origins=origins(table),
        places=places.to_dict("records"),
        configuration=configuration_text(table),
    )
    target = table.drawn / "report.html"
    write_text(target, page)
    return target


def document(template: str, panels: Mapping[str, Sequence[interactive.Panel]], data: Any, **values: Any) -> str:
    """Return an HTML page that needs no other file: a template with the style and the scripts of all pages.

    Args:
        template: name of the template in this folder.
        panels: id of an element with a figure to the panels that are drawn in it.
        data: what ``page.js`` shows items of; None if it has none.
        **values: for the template.
    """
    scripts = [interactive.javascript().replace("</script", "<\\/script"), _resource("page.js")]
    return (
        _environment()
        .from_string(_resource(template))
        .render(
            css=_resource("page.css"),
            scripts=scripts,
            hashes=" ".join(f"'sha256-{_sha256(script)}'" for script in scripts),
            panels=panels,
            data=data,
            **values,
        )
    )


def configuration_text(table: RunTable) -> str:
    """Return the configuration as YAML, with all defaults but without ``data_mirror``."""
    values = table.config.model_dump(mode="json", exclude={"data_mirror"})
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)


def data_of_tasks(table: RunTable) -> list[dict[str, Any]]:
    """Return for every task with data what it is, its rows, and from where and under which licence they are.

    Returns:
        ``task``, ``summary``, ``metric`` and ``licence``; ``rows``: of each split, how many were taken for the first
        seed and fold, of how many; ``origins``: datasets, and folders of files.
    """
    found = []
    metrics = headline(table)
    scored: dict[str, DataNode] = {}
    for evaluation in table.part(MAIN).values():
        scored.setdefault(evaluation.data.task, evaluation.data)
    for name in dict.fromkeys((*table.config.tasks, *table.config.retention)):
        if name not in scored or not PREPARE.report(table, scored[name]).is_file():
            continue
        task, node = table.config.task(name), scored[name]
        manifest = PREPARE.read_report(table, node)
        rows = [f"{count['kept']:,} of {count['available']:,}" for count in manifest["counts"].values()]
        sources = [(entry["kind"], str(entry["origin"])) for entry in manifest["provenance"]]
        origins = [origin.rpartition("/")[0] if kind == "file" else origin for kind, origin in sources]
        found.append(
            {"task": name, "summary": task.summary, "licence": task.licence}
            | {"metric": metrics.get(name, task.headline)}
            | {"rows": dict(zip(manifest["counts"], rows, strict=True)), "origins": list(dict.fromkeys(origins))}
        )
    return found


def failures(results: pd.DataFrame) -> list[dict[str, str]]:
    """Return ``run``, ``scored on`` and ``reason`` of every failure, in the order of the results."""
    failed = results[results["status"] != "ok"]
    return [
        {
            "run": row["run_id"],
            "scored on": f"{row['eval_task']}, protocol {row['protocol']}",
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


def _section(output: Output, results: Path, twin: bool) -> Section:
    path = output.path(results)
    if not path.is_file():
        raise ReportError(f"{path} is not there; run the workflow first")
    if output.kind == "figure":
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            width, caption = picture.width * _SCREEN_DPI // PNG_DPI, str(picture.info.get("Description", ""))
        encoded = base64.b64encode(data).decode("ascii")
        panels = tuple(interactive.panels(output, results))
        body = f"data:image/png;base64,{encoded}"
        return Section(output, body, caption=caption, panels=panels, twin=twin, width=width)
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines[0].startswith("**"):  # the title, which the page shows as a heading
        lines = lines[1:]
    last = max((at for at, line in enumerate(lines) if line.startswith("|")), default=-1)
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    body, legend = (markdown.render("\n".join(part)) for part in (lines[: last + 1], lines[last + 1 :]))
    return Section(output, body, legend, twin=twin, folded=sum(line.startswith("|") for line in lines) > _LONG)


def _resource(name: str) -> str:
    return files("lofit.report").joinpath(name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _as_data(value: Any) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["data"] = _as_data
    made.filters["number"] = lambda value, digits=1: "-" if pd.isna(value) else f"{value:,.{digits}f}"
    return made
