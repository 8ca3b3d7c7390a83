"""Two workflows in one folder, one that is killed, and clocks that are wrong."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lofit.cluster import watchdog as abandoned
from lofit.files import write_jsonl
from lofit.nodes.mark_failed import mark_failed
from tests.workflows import REPOSITORY, Workflow

pytestmark = pytest.mark.slow

DAY = 86_400
SLOW = """
import os, sys, time
class Wait:
    def find_spec(self, name, path=None, target=None):
        if name == "lofit.nodes.evaluate":
            with open(os.environ["STARTED"] + ".part", "w") as file:
                file.write(str(os.getpid()))
            os.replace(file.name, os.environ["STARTED"])
            while not os.path.exists(os.environ["FREED"]):
                time.sleep(0.1)
if "-m lofit node evaluate" in " ".join(sys.orig_argv):
    sys.meta_path.insert(0, Wait())
"""
"""A sitecustomize that stops an evaluation while it starts."""


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
    # Without servers, so that the process of a node is the one that is stopped; forks: test_node_server, test_kills.
    found.config |= {"methods": {"base": None}, "tasks": own_task(tmp_path), "node_server": False}
    del found.config["transfer"]
    return found


def shift(paths: list[Path], seconds: float) -> None:
    for path in paths:
        os.utime(path, (time.time() + seconds, time.time() + seconds))


@contextlib.contextmanager
def at_work(
    made: Workflow, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[subprocess.Popen[bytes], psutil.Process]]:
    """A workflow and its node at work, which goes on at the end of the block."""
    (made.folder / "injected").mkdir()
    (made.folder / "injected" / "sitecustomize.py").write_text(SLOW)
    started, freed = made.folder / "started", made.folder / "freed"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(made.folder / "injected"), str(REPOSITORY)]))
    monkeypatch.setenv("STARTED", str(started))
    monkeypatch.setenv("FREED", str(freed))
    made.planned()
    with (made.folder / "first.log").open("w") as log:
        first = subprocess.Popen(made.command(), stdout=log, stderr=log, env=made.environment(), cwd=made.folder)
        try:
            for _ in range(1200):
                if started.exists() or first.poll() is not None:
                    break
                time.sleep(0.1)
            assert started.exists(), (made.folder / "first.log").read_text()
            yield first, psutil.Process(int(started.read_text()))
        finally:
            freed.touch()
            first.wait(300)


def test_a_second_workflow_is_refused_and_the_first_is_not_disturbed(
    made: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_work(made, monkeypatch) as (first, _):
        second = made.snakemake()
        planned = made.planned()
    assert first.returncode == 0, (made.folder / "first.log").read_text()
    assert second.returncode != 0
    said = second.stdout + second.stderr
    assert "Directory cannot be locked" in said
    assert "--unlock" in said
    assert "Traceback" not in said
    assert planned["evaluate"] == 1
    assert (made.folder / "results" / "report.html").is_file()
    assert made.planned() == Counter()


def test_a_node_of_a_killed_workflow_ends_with_it_and_the_next_one_finishes(
    made: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_work(made, monkeypatch) as (first, node):
        first.kill()
        node.wait(30)
    [log] = (made.folder / "results" / "logs" / "evaluate").rglob("*.log")
    assert log.read_text() == f"error: {abandoned.MESSAGE}\n"
    assert made.snakemake("--unlock").returncode == 0
    monkeypatch.chdir(made.folder)
    assert list(mark_failed(made.table(), None)) == [], "it did not fail for a reason of its own"
    made.run()
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
