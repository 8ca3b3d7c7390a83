"""Methods, localizers and tasks outside the package: the examples of docs/extending.md in a folder of the user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from lofit.cli.app import app
from lofit.cli.skeleton import EXAMPLES, write_skeleton
from lofit.config import parse_config
from lofit.errors import ConfigError
from tests.fitted import tiny_config
from tests.unit.test_extending import REPOSITORY

RUN = """
import json, sys, yaml
from pathlib import Path
from lofit.config import load_config
from lofit.plan.kinds import FETCH, FIT, LOCALIZE, PREPARE
from lofit.plan.table import RunTable
from tests.fitted import run, run_nodes
table = RunTable(load_config(Path("config.yaml")))
if "run" in sys.argv:
    run_nodes(table, FETCH, PREPARE)
    run(table)
triggers = [kind.triggers(table, node) for kind in (FIT, LOCALIZE) for node in kind.nodes(table).values()]
print(json.dumps([list(table.fits), triggers]))
"""
CONFIG: dict[str, Any] = {
    "tasks": {"reverse": {"options": {"n_train": 8, "n_validation": 4, "n_test": 6}}},
    "methods": {"base": None, "scale_only": {"heads": {"localizer": "last_layers", "k": [2]}, "params": {"epochs": 1}}},
}


def write_examples(folder: Path) -> Path:
    """The method, the localizer and the task of the page, as plugins."""
    for part, name in EXAMPLES.items():
        write_skeleton(part, name, folder)
    return folder


def told(folder: Path, *arguments: str, path: Path | None = None) -> tuple[list[str], list[Any]]:
    """Run ids, and what makes fits and rankings run again, as a process of its own sees them."""
    places = os.pathsep.join(map(str, filter(None, [REPOSITORY, path])))
    env = os.environ | {"PYTHONPATH": places, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", RUN, *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    ids, triggers = json.loads(done.stdout.splitlines()[-1])
    return ids, triggers


def configured(folder: Path, **more: Any) -> None:
    tiny_config(folder, CONFIG["methods"], tasks=CONFIG["tasks"], **more)


def test_plugins_run_and_their_source_is_part_of_what_is_run(tmp_path: Path) -> None:
    write_examples(tmp_path / "mine")
    configured(tmp_path, plugins=["mine"])
    ids, before = told(tmp_path, "run")
    assert [id.split("/")[-1].rpartition("-")[0] for id in ids] == ["base", "scale_only"]
    for id in ids:
        [result] = (tmp_path / "results" / "runs" / id).glob("eval/*/*/*/results.json")
        assert json.loads(result.read_text())["status"] == "ok"
    for file, changed in (("methods/scale_only.py", [True, False]), ("localizers/last_layers.py", [True, True])):
        source = tmp_path / "mine" / file
        source.write_text(source.read_text() + "\nEDITED = 1\n")
        now = told(tmp_path)[1]
        assert [old != new for old, new in zip(before, now, strict=True)] == changed


def test_installed_packages_have_entry_points(tmp_path: Path) -> None:
    site = tmp_path / "site"
    write_examples(site / "their_pkg")
    about = site / "their_pkg-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-pkg\nVersion: 1.0\n")
    points = {"methods": "methods.scale_only", "localizers": "localizers.last_layers", "tasks": "tasks.reverse.prepare"}
    (about / "entry_points.txt").write_text(
        "".join(f"[lofit.{part}]\n{module.split('.')[1]} = their_pkg.{module}\n" for part, module in points.items())
    )
    configured(tmp_path)
    assert len(told(tmp_path, path=site)[0]) == 2


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("methods/lora.py", "lora.py has the name of one that is known already"),
        ("tasks/siqa/prepare.py", "siqa has the name of one that is known already"),
        ("metods/mine.py", "has no subfolder methods, localizers, tasks"),
    ],
)
def test_what_is_no_plugin_is_one_line(file: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine" / file).parent.mkdir(parents=True)
    (tmp_path / "mine" / file).write_text("")
    config = yaml.safe_load(yaml.safe_dump(tiny_config(tmp_path, {"base": None}, plugins=[str(tmp_path / "mine")])))
    with pytest.raises(ConfigError, match=message):
        parse_config(config)


def test_a_skeleton_under_another_name_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for part, name in (("method", "mine"), ("localizer", "ours"), ("task", "backwards")):
        done = CliRunner().invoke(app, ["new", part, name])
        assert done.exit_code == 0, done.exception
        assert f"write `plugins: [plugins]` into a configuration, and name {name} there" in done.stdout
    text = json.dumps({"tasks": CONFIG["tasks"], "methods": CONFIG["methods"]})
    for old, new in (("scale_only", "mine"), ("last_layers", "ours"), ("reverse", "backwards")):
        text = text.replace(old, new)
    given = json.loads(text)
    tiny_config(tmp_path, given["methods"], tasks=given["tasks"], plugins=["plugins"])
    ids, _ = told(tmp_path, "run")
    assert [id.split("/")[1] for id in ids] == ["backwards"] * 2
    assert ids[1].split("/")[-1].startswith("mine-")


@pytest.mark.parametrize(
    ("name", "message"),
    [("lora", "'lora' is a method already"), ("a-b", "letters, digits and underscores"), ("../x", "letters, digits")],
)
def test_names_that_a_skeleton_cannot_have(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        write_skeleton("method", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_skeleton_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "mine.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        write_skeleton("method", "mine", tmp_path)
    assert [file.name for file in (tmp_path / "methods").iterdir()] == ["mine.yaml"]
