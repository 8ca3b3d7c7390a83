"""One set of versions: pyproject's ranges, the lock and the conda environment must agree."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import lofit
from lofit.models.meter import commit_of

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(lines: list[str]) -> dict[str, Requirement]:
    """Map canonical distribution names to parsed requirements."""
    parsed = [Requirement(line) for line in lines]
    found = {canonicalize_name(requirement.name): requirement for requirement in parsed}
    assert len(found) == len(parsed), "a distribution is given twice"
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
    blocks = re.findall(r"(?m)^([A-Za-z0-9][\w.-]*)==.*?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", LOCK)
    assert {canonicalize_name(name) for name, _ in blocks} == set(lock), "run `make lock`"


def test_a_python_that_the_project_supports_is_the_same_everywhere():
    supported = Requirement(f"python{PROJECT['requires-python']}").specifier
    versions = [f"3.{minor}" for minor in range(30) if supported.contains(f"3.{minor}")]
    prefix = "Programming Language :: Python :: "
    assert [line.removeprefix(prefix) for line in PROJECT["classifiers"] if line.startswith(prefix)] == versions
    assert f"Python {versions[0]} to {versions[-1]}" in (ROOT / "README.md").read_text()
    first, last = (version.replace(".", ", ") for version in (versions[0], versions[-1]))
    assert f"({first}) <= sys.version_info[:2] <= ({last})" in (ROOT / "Makefile").read_text()


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_that_writes_the_lock_reads_it(lock):
    script = load_script("lock")
    assert script.parse_pins(LOCK) == {name: str(version) for name, version in lock.items()}
    assert "".join(pin[0] for pin in script.PIN.finditer(LOCK)) == LOCK.partition("\n\n")[2]
    bare = script.HASHES.sub("", LOCK)
    assert "--hash" not in bare
    assert script.parse_pins(bare) == script.parse_pins(LOCK)


def test_pins_that_make_setup_takes_out_of_the_lock_can_be_installed_alone(lock):
    for name in ("uv", "torch"):
        (block,) = re.findall(rf"(?m)^{name}==(?:.*\n)+?.*# via", LOCK)
        assert "--hash=sha256:" in block
        assert len(re.findall(r"(?m)^[a-z]", block)) == 1


def test_a_package_of_which_a_part_is_missing_is_not_taken_for_installed(tmp_path):
    whole = load_script("whole").whole
    (tmp_path / "part.py").write_text("x = 1\n")
    record = tmp_path / "part-1.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: part\nVersion: 1\n")
    assert not whole(record)  # no list of files yet
    (record / "RECORD").write_text("part.py,,6\npart-1.dist-info/METADATA,,\npart-1.dist-info/RECORD,,\nx.pyc,,\n")
    assert whole(record)
    (tmp_path / "part.py").write_text("x =")
    assert not whole(record)
    (tmp_path / "part.py").unlink()
    assert not whole(record)


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


def test_a_run_says_its_commit_and_what_differs_from_it(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert commit_of(tmp_path) is None
    git("init", "--quiet")
    (tmp_path / "code.py").write_text("a = 1\n")
    git("add", "code.py")
    git("commit", "--quiet", "--message", "first")
    head = git("rev-parse", "HEAD")
    assert commit_of(tmp_path) == head
    (tmp_path / "folder").mkdir()
    assert commit_of(tmp_path / "folder") is None, "the commit of another project would mislead"
    said = []
    for text in ("a = 2\n", "a = 3\n"):
        (tmp_path / "code.py").write_text(text)
        said.append(commit_of(tmp_path))
    assert len(set(said)) == 2
    assert all(str(text).startswith(f"{head}-dirty-") for text in said)
