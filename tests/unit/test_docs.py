"""Documentation that is derived from the code, and names that it uses."""

from __future__ import annotations

import doctest
import importlib
import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from sphinx.project import Project

from lofit import __version__
from lofit.cli.app import app
from lofit.config import load_config
from lofit.config.form import Config
from lofit.methods import load_method, method_names
from lofit.plan.kinds import FETCH, KINDS, PREPARE
from lofit.plan.table import RunTable

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
SITE = runpy.run_path(str(DOCS / "conf.py"))
FOUND = Project(str(REPOSITORY), {".md": "markdown"}).discover(SITE["exclude_patterns"], SITE["include_patterns"])
PAGES = [DOCS / "README.md", *(REPOSITORY / f"{name}.md" for name in sorted(FOUND))]
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


GENERATED = {name: "describe" for name in ("methods", "tasks", "configuration", "commands")} | {"paper": "paper"}


@pytest.mark.parametrize(("name", "script"), GENERATED.items())
def test_generated_pages_are_what_the_modules_say(name: str, script: str) -> None:
    page = runpy.run_path(str(REPOSITORY / "scripts" / f"{script}.py"))[f"{name}_page"]
    assert (DOCS / f"{name}.md").read_text(encoding="utf-8") == page(), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def listed() -> list[str]:
    """The pages in docs/index.md, and in the contents of other pages, as often as they are there."""
    found: list[Path] = []
    for block in re.findall(r"```{toctree}\n(.*?)```", (DOCS / "index.md").read_text(encoding="utf-8"), re.DOTALL):
        entries = [line for line in block.splitlines() if line and not line.startswith(":")]
        found += [DOCS / f"{entry.rpartition('<')[2].rstrip('>')}.md" for entry in entries]
    for page, below in SITE["BELOW"].items():
        for parent in REPOSITORY.glob(f"{page}.md"):
            for entry in below:
                found += (REPOSITORY if entry.startswith("/") else parent.parent).glob(f"{entry.lstrip('/')}.md")
    return [str(path.resolve().relative_to(REPOSITORY).with_suffix("")) for path in found]


def test_every_page_is_in_the_contents_of_the_site_once() -> None:
    assert sorted(listed()) == sorted(FOUND - {SITE["root_doc"]})


def test_the_list_of_pages_has_every_page_of_the_contents() -> None:
    linked = {(DOCS / target).resolve() for target in LINK.findall((DOCS / "README.md").read_text(encoding="utf-8"))}
    below = {name for name in listed() if re.match(r"docs/results/.+/|lofit/|examples/", name)}
    assert {REPOSITORY / f"{name}.md" for name in set(listed()) - below} <= linked


def test_the_picture_of_the_workflow_has_what_each_kind_of_node_reads() -> None:
    picture = ElementTree.parse(DOCS / "flow.svg")
    boxes, arrows = ({part.get("id") for part in picture.iterfind(f".//{{*}}{tag}[@id]")} for tag in ("g", "path"))
    table = RunTable(load_config(REPOSITORY / "config" / "laptop.yaml"))
    made = {
        file: kind.name for kind in KINDS for node in kind.nodes(table).values() for file in kind.outputs(table, node)
    }
    read = {
        (made[file], kind.name)
        for kind in KINDS
        for node in kind.nodes(table).values()
        for files in kind.inputs(table, node).values()
        for file in files
    }
    shown = {f"{one}-{other}" for one, other in read if one not in (FETCH.name, PREPARE.name, other)}
    assert boxes == {kind.name for kind in KINDS} | {"collect", "tables", "report"}
    assert arrows == shown | {"evaluate-collect", "collect-tables", "tables-report"}


def test_every_key_of_a_configuration_says_what_it_means() -> None:
    schema = Config.model_json_schema()
    forms = {"": schema} | schema["$defs"]
    keys = {f"{form}.{key}": entry for form, body in forms.items() for key, entry in body["properties"].items()}
    assert [key for key, entry in keys.items() if not entry.get("description") and "const" not in entry] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_commands_exist(page: Path) -> None:
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {group.name for group in app.registered_groups}
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"(?:^|`)lofit ([a-z][a-z-]*)", text, re.MULTILINE)) <= known
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = {word for line in re.findall(r"(?:^|`)make ((?:[a-z-]+ ?)+)", text, re.MULTILINE) for word in line.split()}
    assert named <= targets


def test_ci_calls_make_on_the_pythons_that_it_knows() -> None:
    jobs = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    called = [step["run"].split() for job in jobs.values() for step in job["steps"] if "run" in step]
    assert {words[0] for words in called} == {"make", "git"}
    assert {words[1] for words in called if words[0] == "make"} <= set(
        re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    )
    known = re.search(r"PYTHON \(3\.(\d+) to 3\.(\d+)\)", makefile)
    assert known
    pythons = [f"3.{minor}" for minor in range(int(known[1]), int(known[2]) + 1)]
    assert jobs["test"]["strategy"]["matrix"]["python"] == pythons


def test_every_version_has_an_entry_in_the_changelog() -> None:
    assert f"\n## {__version__}" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {__version__}\n" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")


EXAMPLES = [path for path in sorted((REPOSITORY / "lofit").rglob("*.py")) if ">>>" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_examples_in_docstrings_are_true(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_every_method_says_what_it_learns() -> None:
    for name in method_names():
        method = load_method(name)
        assert method.name == name
        assert method.summary and method.source and method.learns and method.parameters
