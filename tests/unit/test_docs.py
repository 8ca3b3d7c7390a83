"""Documentation that is derived from the code, and names that it uses."""

from __future__ import annotations

import doctest
import importlib
import re
import runpy
from pathlib import Path

import pytest
import yaml

from lofit import __version__
from lofit.cli.app import app
from lofit.methods import load_method, method_names

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PAGES += [REPOSITORY / "docs" / "results" / "README.md", REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "CHANGELOG.md"]


@pytest.mark.parametrize(("name", "script"), [("methods", "describe"), ("tasks", "describe"), ("paper", "paper")])
def test_generated_pages_are_what_the_modules_say(name: str, script: str) -> None:
    page = runpy.run_path(str(REPOSITORY / "scripts" / f"{script}.py"))[f"{name}_page"]
    assert (REPOSITORY / "docs" / f"{name}.md").read_text(encoding="utf-8") == page(), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


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
