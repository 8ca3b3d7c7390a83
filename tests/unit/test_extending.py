"""docs/extending.md: its worked examples are carried out in a copy of the repository, and run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from lofit.cli.skeleton import BLOCK

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "extending.md"
COPIED = ("docs", "lofit", "scripts", "tests", "workflow/schemas", "pyproject.toml")
SCHEMA = Path("workflow", "schemas", "config.schema.yaml")
RESULTS = Path("run", "results")
LISTED = re.compile(r"^\| `([^`]+)` \| (?:new|generated|one line added) \|$", re.MULTILINE)


def sections() -> dict[str, str]:
    """The sections of the page, by title."""
    _, *parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


EXAMPLES = {title: text for title, text in sections().items() if title.startswith("Adding ")}


def add(section: str, folder: Path) -> None:
    """Write the files of a section."""
    for name, before, body in BLOCK.findall(section):
        file = folder / name
        if before:
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            [place] = [n for n, line in enumerate(lines) if line.strip().startswith(before)]
            body = "".join([*lines[:place], body, *lines[place:]])
        else:
            assert not file.exists(), f"{name} is there already"
            file.parent.mkdir(exist_ok=True)
        file.write_text(body, encoding="utf-8")


def python(folder: Path, *arguments: str) -> str:
    """Run Python on the package of the copy, and return what it prints."""
    env = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def generated(folder: Path) -> dict[str, bytes]:
    """Write what is generated, as `make docs` and `lofit schema` do, and return the content of every file."""
    python(folder, "scripts/describe.py")
    (folder / SCHEMA).write_text(python(folder, "-m", "lofit", "schema"), encoding="utf-8")
    files = [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def run_example() -> None:
    """In the copy, which is the working folder: run the configuration of the page, made small, on a tiny model."""
    import lofit
    from lofit.config import parse_config
    from lofit.localizers import localizer_names
    from lofit.methods import method_names
    from lofit.plan.kinds import FETCH, PREPARE
    from lofit.plan.table import RunTable
    from lofit.tasks import load_task, task_names
    from lofit.tasks.sizes import task_sizes
    from tests.fitted import run, run_nodes, tiny_config

    assert Path(lofit.__file__).is_relative_to(Path.cwd())
    [example] = re.findall(r"```yaml\n(.*?)```", sections()["Using all four"], re.DOTALL)
    asked = yaml.safe_load(example)
    for entry in asked["tasks"].values():
        entry["options"] |= {"n_train": 8, "n_validation": 4, "n_test": 6}
    RESULTS.parent.mkdir()
    table = RunTable(parse_config(tiny_config(RESULTS.parent, asked["methods"], tasks=asked["tasks"])))
    run_nodes(table, FETCH, PREPARE)
    run(table)

    task: Any = load_task("reverse")
    made = task.prepare(task.Options(), 0, 0, None)
    counts = {split: len(getattr(made, split)) for split in ("train", "validation", "test")}
    names = {"methods": method_names(), "localizers": localizer_names(), "tasks": task_names()}
    print(json.dumps({"names": names, "counts": counts, "sizes": task_sizes()["reverse"]}))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]], dict[str, Any]]:
    """The copy with all examples, the files that each of them changed, and what the process that ran them tells."""
    folder = tmp_path_factory.mktemp("copy")
    for part in COPIED:
        (folder / part).parent.mkdir(exist_ok=True)
        if (source := REPOSITORY / part).is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    changed, before = {}, generated(folder)
    for title, section in EXAMPLES.items():
        add(section, folder)
        after = generated(folder)
        changed[title] = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        before = after
    printed = python(folder, "-c", "from tests.unit.test_extending import run_example; run_example()")
    return folder, changed, json.loads(printed.splitlines()[-1])


@pytest.mark.parametrize("title", EXAMPLES)
def test_the_files_that_change_are_those_that_are_listed(title: str, copy: Any) -> None:
    assert copy[1][title] == sorted(LISTED.findall(EXAMPLES[title]))
    assert EXAMPLES[title].count("\n```\n") == len(BLOCK.findall(EXAMPLES[title])), "a block names no file"


def test_names_are_found_and_documented(copy: Any) -> None:
    folder, _, told = copy
    for kind, name in (("methods", "scale_only"), ("localizers", "last_layers"), ("tasks", "reverse")):
        assert name in told["names"][kind]
        page = folder / "docs" / ("tasks.md" if kind == "tasks" else "methods.md")
        assert re.search(rf"^\| \W{name}\W", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert {split: told["sizes"][split] for split in told["counts"]} == told["counts"]


def test_all_runs_succeed_and_are_in_the_table(copy: Any) -> None:
    scores = pd.read_csv(copy[0] / RESULTS / "results.csv")
    assert set(scores["status"]) == {"ok"}
    assert set(scores["method"]) == {"base", "lofit", "scale_only"}
    assert set(scores["selector"].dropna()) == {"last_layers"}
    assert set(scores["eval_task"]) == {"reverse"}
    stem = copy[0] / RESULTS / "tables" / "fit_cost"
    frame = pd.read_csv(stem.with_suffix(".csv")).set_index("method")
    assert list(frame) == ["model", "heads", "runs", "trained_params", "fit_seconds"]
    assert frame["trained_params"].dropna().to_dict() == {"lofit": 8, "scale_only": 8}  # one head of 8 values
    shown = stem.with_suffix(".md").read_text(encoding="utf-8")
    assert re.search(r"^\| model +\| method +\| heads +\| runs +\| parameters +\| seconds +\|$", shown, re.MULTILINE)
    assert "Trained parameters and seconds of fitting" in (copy[0] / RESULTS / "report.html").read_text("utf-8")


def test_the_examples_pass_the_linter(copy: Any) -> None:
    python(copy[0], "-m", "ruff", "check", "--no-cache", "lofit")
    python(copy[0], "-m", "ruff", "format", "--no-cache", "--check", "lofit")
