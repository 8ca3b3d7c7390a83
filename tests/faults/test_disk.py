"""A disk that is full, a folder that cannot be written, a file that vanished: one line, and nothing half-written."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lofit.errors import system_error
from lofit.files import atomic_path, reserve
from lofit.nodes import evaluate as evaluate_node
from lofit.plan.table import RunTable
from tests.fitted import find, fitted_table, tiny_config

REPOSITORY = Path(__file__).parents[2]
METHODS: dict[str, Any] = {"base": None, "lora": {"params": {"epochs": 1, "lr": 0.01}}, "repe": None}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunTable, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("disk")
    config = tiny_config(folder, METHODS)
    return fitted_table(config), config


def lofit(folder: Path, *arguments: str, most_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run a verb; no file that it writes may be larger than ``most_bytes``, as on a disk with no more room."""

    def limit() -> None:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "lofit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, preexec_fn=limit, check=False)


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["prepare", "capture", "fit", "evaluate"])
def test_no_room_on_disk_is_one_line_and_leaves_nothing(kind: str, fitted: Any) -> None:
    table, config = fitted
    lora, folder = find(table, "lora"), Path(config["results"]).parent
    run = {
        "prepare": next(iter(table.data)),
        "capture": next(iter(table.activations)),
        "fit": lora.id,
        "evaluate": table.own_evaluation(lora).id,
    }[kind]
    before = files(folder)
    result = lofit(folder, "node", kind, run, most_bytes=600)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert f": {os.strerror(errno.EFBIG)}; allow larger files" in last
    assert files(folder) == before


def test_a_folder_that_cannot_be_written_is_one_line(fitted: Any) -> None:
    table, config = fitted
    folder = Path(config["results"]).parent
    blocked = config | {"resources": "/sys/lofit"}  # refuses even root
    (folder / "blocked.yaml").write_text(yaml.safe_dump(blocked))
    result = lofit(folder, "node", "fetch", next(iter(table.models)), "--configfile", "blocked.yaml")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("error: /sys/lofit")
    assert "make it accessible, or name another folder" in result.stderr


def test_a_file_that_vanished_is_one_line(fitted: Any) -> None:
    table, config = fitted
    folder = Path(config["results"]).parent
    for node in table.evaluations.values():
        evaluate_node.run(table, node)
    samples = table.folder(table.own_evaluation(find(table, "repe"))) / "samples.jsonl"
    samples.rename(samples.with_suffix(".away"))
    result = lofit(folder, "collect")
    samples.with_suffix(".away").rename(samples)
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith(f"error: {samples}: cannot be read (No such file or directory)")
    assert not (Path(config["results"]) / "items.parquet").exists()


def test_an_error_without_a_file_names_the_one_that_was_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, atomic_path(tmp_path / "made.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert system_error(caught.value) == (
        f"{tmp_path / 'made.json'}: No space left on device; free some space, or name another folder (results, "
        "resources, TMPDIR)"
    )
    assert list(tmp_path.iterdir()) == []


def test_wrapped_errors_of_the_system_are_seen_and_bugs_are_not() -> None:
    wrapped = RuntimeError("could not generate")
    wrapped.__cause__ = PermissionError(errno.EACCES, "Permission denied", "/data/x")
    assert str(system_error(wrapped)).startswith("/data/x: Permission denied; make it accessible")
    native = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert str(system_error(native)).startswith("a file of this node: No space left on device; free some space")
    for bug in (KeyError("x"), RuntimeError("shapes"), OSError("not a folder"), OSError(errno.EPIPE, "Broken pipe")):
        assert system_error(bug) is None


def test_room_for_a_mapped_file_is_taken_at_once(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    np.lib.format.open_memmap(file, "w+", np.float32, (1000, 1000)).flush()
    assert file.stat().st_blocks * 512 < 4_000_000
    reserve(file)
    assert file.stat().st_blocks * 512 >= 4_000_000
    assert np.load(file).shape == (1000, 1000)
