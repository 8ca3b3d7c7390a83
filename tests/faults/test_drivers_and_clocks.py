"""Two workflows in one folder, and clocks that are wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lofit.files import write_jsonl
from tests.workflows import REPOSITORY, Workflow

DAY = 86_400
SLOW = """
import os, sys, time
if "-m lofit evaluate" in " ".join(sys.orig_argv):
    open(os.environ["STARTED"], "w").close()
    while not os.path.exists(os.environ["FREED"]):
        time.sleep(0.1)
"""


def own_task(folder: Path) -> dict[str, Any]:
    (folder / "sums").mkdir()
    for split, n in (("train", 20), ("test", 6)):
        write_jsonl(
            folder / "sums" / f"{split}.jsonl", [{"prompt": f"{split} {i}=", "answer": str(i)} for i in range(n)]
        )
    return {"sums": {"path": str(folder / "sums")}}


@pytest.fixture
def made(tmp_path: Path) -> Workflow:
    found = Workflow(tmp_path)
    found.config |= {"methods": {"base": None}, "tasks": own_task(tmp_path)}
    del found.config["transfer"]
    return found


def shift(paths: list[Path], seconds: float) -> None:
    for path in paths:
        os.utime(path, (time.time() + seconds, time.time() + seconds))


def test_a_second_workflow_is_refused_and_the_first_is_not_disturbed(
    made: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made.folder / "injected").mkdir()
    (made.folder / "injected" / "sitecustomize.py").write_text(SLOW)
    started, freed = made.folder / "started", made.folder / "freed"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(made.folder / "injected"), str(REPOSITORY)]))
    monkeypatch.setenv("STARTED", str(started))
    monkeypatch.setenv("FREED", str(freed))
    made.planned()
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--snakefile", str(REPOSITORY / "Snakefile")]
    command += ["--directory", str(made.folder), "--configfile", str(made.folder / "config.yaml")]
    with (made.folder / "first.log").open("w") as log:
        first = subprocess.Popen(command, stdout=log, stderr=log, cwd=made.folder)
        try:
            for _ in range(1200):
                if started.exists() or first.poll() is not None:
                    break
                time.sleep(0.1)
            second = made.snakemake()
            planned = made.planned()
        finally:
            freed.touch()
            assert first.wait(300) == 0, (made.folder / "first.log").read_text()
    assert second.returncode != 0
    said = second.stdout + second.stderr
    assert "Directory cannot be locked" in said
    assert "--unlock" in said
    assert "Traceback" not in said
    assert planned["evaluate"] == 1
    assert (made.folder / "results" / "report.html").is_file()
    assert made.planned() == Counter()


def test_clocks_in_the_future_and_in_the_past_rerun_nothing_for_ever(made: Workflow) -> None:
    made.run()
    everything = [path for path in (made.folder / "results").rglob("*") if path.is_file()]
    shift(everything, DAY)
    assert made.planned() == Counter(), "outputs from the future are not computed again"
    shift([made.folder / "sums" / "test.jsonl"], 2 * DAY)
    assert made.planned() == Counter(), "an input of the same content is the same input, whatever its time"
    rows = [{"prompt": f"other {i}=", "answer": str(i)} for i in range(6)]
    write_jsonl(made.folder / "sums" / "test.jsonl", rows)
    shift([made.folder / "sums" / "test.jsonl"], 2 * DAY)
    refused = made.snakemake()
    assert refused.returncode != 0
    assert "could indicate a clock skew problem" in refused.stdout + refused.stderr
    command = "find results resources sums -newermt now -exec touch {} +"
    assert command.replace(" sums", "") in (REPOSITORY / "docs" / "failures.md").read_text()
    subprocess.run(command, shell=True, cwd=made.folder, check=True)
    made.run()
    assert made.planned() == Counter(), "what was computed since is up to date"


def test_durations_are_never_differences_of_the_clock() -> None:
    for file in (REPOSITORY / "lofit").rglob("*.py"):
        assert not re.search(r"\btime\.time\(|datetime\.now|utcnow", file.read_text()), file
