"""One set of versions: pyproject's ranges, the lock and the conda environment must agree."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import lofit

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(lines: list[str]) -> dict[str, Requirement]:
    """Map canonical distribution names to parsed requirements."""
    parsed = [Requirement(line) for line in lines]
    found = {canonicalize_name(requirement.name): requirement for requirement in parsed}
    assert len(found) == len(parsed), "a distribution stands twice"
    return found


def pins(lines: list[str]) -> dict[str, Version]:
    """Map canonical distribution names to the one version each line pins."""
    found = {}
    for name, requirement in requirements(lines).items():
        operators = [clause.operator for clause in requirement.specifier]
        assert operators == ["=="], f"{requirement} is no exact pin"
        found[name] = Version(next(iter(requirement.specifier)).version)
    return found


RUNTIME = requirements(PROJECT["dependencies"])
TEST = requirements(EXTRAS["test"])
DEV = requirements(EXTRAS["dev"])


LOCK = (ROOT / "requirements" / "cpu-linux.lock").read_text()


@pytest.fixture(scope="module")
def lock() -> dict[str, Version]:
    lines = [line.removesuffix(" \\") for line in LOCK.splitlines()]
    return pins([line for line in lines if line and not line.lstrip().startswith(("#", "--hash="))])


@pytest.fixture(scope="module")
def conda() -> dict:
    return yaml.safe_load((ROOT / "environment.yml").read_text())


@pytest.fixture(scope="module")
def conda_pins(conda: dict) -> dict[str, Version]:
    (section,) = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    return pins(section)


def test_the_lock_pins_every_direct_dependency_within_its_range(lock):
    for name, requirement in {**RUNTIME, **TEST, **DEV}.items():
        assert name in lock, f"{name} is missing from the lock; run `make lock`"
        assert requirement.specifier.contains(lock[name]), (
            f"{name} {lock[name]} is outside {requirement}; run `make lock`"
        )


def test_every_pin_has_the_hashes_of_its_archives(lock):
    blocks = re.findall(r"(?m)^([A-Za-z0-9][\w.-]*)==\S+((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", LOCK)
    assert {canonicalize_name(name) for name, _ in blocks} == set(lock), "run `make lock`"


def test_hashes_can_be_taken_off_a_lock_and_put_back():
    script = importlib.util.spec_from_file_location("lock", ROOT / "scripts" / "lock.py")
    module = importlib.util.module_from_spec(script)
    script.loader.exec_module(module)
    bare = module.without_hashes(LOCK)
    assert "--hash" not in bare
    assert "torch==" in bare
    found = {name: {digest for digest in "ab"} for name in module.parse_pins(bare)}
    hashed = module.with_hashes(bare, found)
    assert module.without_hashes(hashed) == bare
    assert hashed.count("--hash=sha256:a \\\n    --hash=sha256:b\n") == len(found)
    assert module.parse_pins(hashed) == module.parse_pins(bare)


def test_environment_yml_pins_runtime_and_test_dependencies_as_the_lock_does(lock, conda_pins):
    assert conda_pins == {name: lock[name] for name in {**RUNTIME, **TEST}}, "run `make lock`"


def test_environment_yml_takes_a_python_the_project_supports(conda):
    (python,) = [entry for entry in conda["dependencies"] if isinstance(entry, str) and entry.startswith("python=")]
    supported = Requirement(f"python{PROJECT['requires-python']}").specifier
    assert supported.contains(python.removeprefix("python="))


def test_the_lock_is_for_cpu(lock):
    assert lock["torch"].local is None, "a local version such as +cpu is not on every index"
    assert not [name for name in lock if re.match(r"nvidia-|cuda-|triton|pytorch-triton", name)]


def test_every_dependency_has_a_lower_and_an_upper_bound():
    for requirement in [*RUNTIME.values(), *TEST.values(), *DEV.values()]:
        operators = {clause.operator for clause in requirement.specifier}
        assert operators == {">=", "<"}, f"{requirement}: give a range"


def test_citation_and_package_name_the_same_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == lofit.__version__


def third_party_imports() -> dict[str, str]:
    """Map each foreign top-level module imported anywhere in lofit/ to one file that imports it."""
    found = {}
    for path in sorted((ROOT / "lofit").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"lofit"}:
                found[top] = str(path.relative_to(ROOT))
    return found


def test_every_imported_package_is_a_declared_dependency():
    distributions = packages_distributions()
    imports = third_party_imports()
    assert "torch" in imports  # the walk sees the package
    for module, path in imports.items():
        owners = {canonicalize_name(name) for name in distributions.get(module, [])}
        assert owners & RUNTIME.keys(), f"{path} imports {module}, which pyproject.toml does not depend on"
