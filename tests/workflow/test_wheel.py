"""The package as pip installs it, used from an empty folder: no checkout is near."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pandas as pd
import pytest

from tests.fitted import tiny_config
from tests.workflows import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment with the wheel in it; what the wheel depends on is that of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, REPOSITORY], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    [wheel] = folder.glob("lofit-*.whl")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    [site] = (folder / "env" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    return python.parent


def test_a_study_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "LOFIT_CONFIG")}

    def lofit(*arguments: str) -> str:
        command = [str(installed / "lofit"), *arguments]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout + done.stderr

    assert "lofit run" in lofit("init", "mine", "--like", "own")
    assert (tmp_path / "mine" / "examples" / "opposites" / "train.jsonl").is_file()
    tiny_config(tmp_path, {"base": None, "lofit": {"heads": {"k": [2]}, "params": {"epochs": 1}}})
    assert "published values" in lofit("expected")
    assert "would run: " in lofit("run", "-n", "--profile", "grouped")
    lofit("run", "--cores", "2")
    table = pd.read_csv(tmp_path / "results" / "tables" / "main.csv")
    assert list(table["method"]) == ["base", "lofit (2 heads)"]
    assert "Nothing to do" in lofit("run", "-n")
    assert "6 of 6 nodes have a result" in lofit("status")
