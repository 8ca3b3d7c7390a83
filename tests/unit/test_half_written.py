"""A method, localizer, recipe or list that is half there or malformed is one line that names the file."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lofit import experiments, registry
from lofit.config import recipes
from lofit.errors import ConfigError, TaskError
from lofit.experiments import experiment as spec
from lofit.sources import catalog
from lofit.tasks import check_definition, load_task, task_folder, task_names

GOOD_MODULE = "from lofit.methods.base import METHOD\n"
MODULES = {
    "none": ("value = 1\n", "new.py has no METHOD of class Method; define it"),
    "another": ("METHOD = 'lofit'\n", "new.py has no METHOD of class Method"),
    "syntax": ("\n\ndef :\n", r"new.py cannot be imported \(SyntaxError: .*new.py:3\); correct it"),
    "name": ("x = y\n", r"new.py cannot be imported \(NameError: name 'y' is not defined; .*new.py:1\)"),
    "import": ("import not_there\n", r"new.py cannot be imported \(ModuleNotFoundError"),
    "exits": ("raise SystemExit(3)\n", r"new.py cannot be imported \(SystemExit: 3"),
    "raises": ("\nraise ValueError('a\\nb')\n", r"new.py cannot be imported \(ValueError: a; .*new.py:2\)"),
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of methods that Python can import, with what is not one yet."""
    folder = tmp_path / "own_methods"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "new.py").write_text(GOOD_MODULE)
    (folder / "new.yaml").write_text("[]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    registry.module_names.cache_clear()
    yield folder
    registry.module_names.cache_clear()
    for name in [name for name in sys.modules if name.startswith("own_methods")]:
        del sys.modules[name]


def test_a_whole_one_is_found(package: Path) -> None:
    from lofit.methods.method import Method

    assert registry.module_names("own_methods") == ("new",)
    assert registry.load("own_methods", "new", "METHOD", Method).name == "base"


@pytest.mark.parametrize("name", MODULES)
def test_a_damaged_module_is_named(name: str, package: Path) -> None:
    from lofit.methods.method import Method

    text, message = MODULES[name]
    (package / "new.py").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        registry.load("own_methods", "new", "METHOD", Method)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("there", "lacking"), [("new.py", "new.yaml"), ("new.yaml", "new.py")])
def test_what_lacks_its_other_half_says_which(there: str, lacking: str, package: Path) -> None:
    (package / lacking).unlink()
    message = registry.unknown_module("method", "own_methods", "new")
    assert str(package / there) in message and f"{lacking} is not" in message
    assert "unknown method 'old'" in registry.unknown_module("method", "own_methods", "old")


@pytest.mark.parametrize(
    "text",
    [
        "a: b\n", "- 3\n", "- [1]\n", "- {set: {}}\n", "- {sett: {}, source: x}\n", "- {set: 3, source: x}\n", "[", "x",
        "- {set: {}, source: x, source: y}\n", "\xff",
    ],
)  # fmt: skip
def test_a_malformed_recipe_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=str(file)) as caught:
        recipes.load_recipe(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[", "- a\n", "kind: tabel\n", "arms: {x: {}}\n"])
def test_a_malformed_experiment_of_the_package_is_named(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.yaml").write_text(text)
    monkeypatch.setattr(spec, "FOLDER", tmp_path)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        experiments.resolved("broken", None)


@pytest.mark.parametrize("text", ["[", "- a\n", "new: {n_layers: 3}\n", "new: 3\n"])
def test_a_malformed_catalogue_is_named(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "catalog.yaml").write_text(text)
    monkeypatch.setattr(catalog, "__file__", str(tmp_path / "catalog.py"))
    with pytest.raises(ConfigError, match=r"catalog\.yaml"):
        catalog.load_catalog.__wrapped__()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "task.yaml").unlink(), r"task\.yaml is not there; write it"),
        (lambda folder: (folder / "task.yaml").write_text("a: ["), r"task\.yaml: not valid YAML"),
        (lambda folder: (folder / "task.yaml").write_text("- a"), "expected a mapping of lm-eval's keys, found list"),
        (lambda folder: (folder / "utils.py").unlink(), r"names utils\.process_results, which .*utils\.py does not"),
        (lambda folder: (folder / "utils.py").write_text("x = 1\n"), r"names utils\.process_results, which .* define"),
    ],
)
def test_a_half_written_task_is_named_before_anything_is_computed(
    change: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    task = load_task("svamp")
    folder = shutil.copytree(task_folder("svamp"), tmp_path / "svamp")
    whole = replace(task, definition=folder / "task.yaml")
    check_definition(whole)
    change(folder)
    with pytest.raises(TaskError, match=message) as caught:
        check_definition(whole)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", task_names())
def test_every_task_of_the_package_is_whole(name: str) -> None:
    if not (task := load_task(name)).plain_text:
        check_definition(task)
