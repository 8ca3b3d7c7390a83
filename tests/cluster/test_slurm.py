"""The workflow on a real SLURM of one node: whole, in groups, and with everything going wrong that goes wrong there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from lofit.node_server.client import OWNER
from lofit.node_server.client import verb as verb_of
from tests.checkpoint import save_checkpoint
from tests.cluster.cluster import Cluster, JobRecord, wait_for
from tests.workflows import MEASURED, REPOSITORY, TRAINING

pytestmark = pytest.mark.slow

PROFILES = REPOSITORY / "workflow" / "profiles"
SHORT = ["fetch=sources", "prepare=sources", "collect_part=report", "table=report"]
"""Groups of rules whose jobs take a moment."""
TARGET = "results/tables/main.csv"
PATIENCE = 600
"""Seconds."""


class Workflow:
    """A folder in which snakemake runs a miniature of config/smoke.yaml, with faults on demand."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.folder = folder
        self.faults = folder / "faults"
        self.faults.mkdir(parents=True)
        self.log = folder / "driver.log"
        source = {"kind": "local", "path": str(checkpoint)}
        config: dict[str, Any] = {
            "models": ["tiny"],
            "model_sources": {"tiny": {"source": source, "n_layers": 3, "n_heads": 4, "billions": 0.0001}},
            "tasks": {"listops": {"options": {"n_train": 8, "n_validation": 4, "n_test": 6}}},
            "methods": {"base": None, "lofit": {"heads": {"k": [3], "params": TRAINING}, "params": TRAINING}},
            "device": "cpu",
            "threads": 1,
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))

    @property
    def env(self) -> dict[str, str]:
        return os.environ | {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            OWNER: "",  # servers end with the Snakemake of the job
            "LOFIT_TEST_FAULTS": str(self.faults),
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "tests" / "cluster" / "faults"), str(REPOSITORY)]),
            "PATH": os.pathsep.join([str(REPOSITORY / "workflow" / "slurm"), os.environ["PATH"]]),
        }

    def start(self, *arguments: str, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start snakemake, ``before`` which other words may stand; its output goes on in the log."""
        command = [*before, sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
        command += [TARGET, "--configfile", "config.yaml", *arguments]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=self.env, cwd=self.folder)

    def start_on_cluster(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start snakemake with the profile for SLURM, asking for states more often."""
        often = ["--slurm-init-seconds-before-status-checks", "3"]
        return self.start("--profile", str(PROFILES / "slurm"), *often, *arguments)

    def lofit(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "lofit", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=self.env, cwd=self.folder, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fault(self, kind: str, verb: str, part: str = "") -> None:
        """Have the next node with this verb, and this part in its run's id, ``fail`` or ``hang``, once."""
        (self.faults / f"{verb}.{kind}").write_text(f"{verb}\n{part}")

    def executions(self) -> list[tuple[str, str]]:
        """SLURM job (or ``-``) and command of every execution of a node, in order."""
        file = self.faults / "executions"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(job, command) for job, _, command in (line.partition("\t") for line in lines)]

    def results(self) -> pd.DataFrame:
        """Rows of the results, without what was measured."""
        frame = pd.read_parquet(self.folder / "results" / "collected" / "main" / "results.parquet")
        kept = [name for name in frame.columns if not any(part in name for part in MEASURED)]
        return frame[kept].sort_values(["run_id", "metric"], ignore_index=True)

    def items(self) -> pd.DataFrame:
        frame = pd.read_parquet(self.folder / "results" / "collected" / "main" / "items.parquet")
        return frame.sort_values(list(frame.columns[:4]), ignore_index=True)

    def table(self) -> str:
        return (self.folder / TARGET).read_text()


def wait_in(workflow: Workflow, driver: subprocess.Popen[bytes], what: str, done: Callable[[], object]) -> None:
    """Wait for something that happens while the driver is at work."""

    def seen() -> object:
        assert driver.poll() is None, f"{what}: snakemake has ended\n{workflow.log.read_text()[-4000:]}"
        return done()

    wait_for(what, seen, PATIENCE)


def finish(driver: subprocess.Popen[bytes], workflow: Workflow) -> int:
    try:
        return driver.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        driver.kill()
        raise AssertionError(f"not done within {PATIENCE} s:\n{workflow.log.read_text()[-4000:]}") from None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cluster")
    save_checkpoint(made / "checkpoint")
    return made


class Background:
    """A workflow that is at work while others wait."""

    def __init__(self, workflow: Workflow, start: Callable[[Workflow], subprocess.Popen[bytes]]) -> None:
        self.workflow = workflow
        self.driver: subprocess.Popen[bytes] | None = None
        self._start = start

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, unless it was."""
        self.driver = self.driver or self._start(self.workflow)
        return self.driver

    def done(self) -> Workflow:
        """The workflow, ended well."""
        assert finish(self.start(), self.workflow) == 0, self.workflow.log.read_text()[-4000:]
        return self.workflow

    def stop(self) -> None:
        if self.driver:
            self.driver.kill()
            self.driver.wait()


@pytest.fixture(scope="module")
def local(folder: Path) -> Iterator[Background]:
    """On this machine alone."""
    workflow = Workflow(folder / "local", folder / "checkpoint")
    made = Background(workflow, lambda workflow: workflow.start("--cores", "2", before=["nice"]))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def grouped(folder: Path, cluster: Cluster, show: Callable[[str, Path], None]) -> Iterator[Background]:
    """On the cluster, undisturbed: with the grouped profile, and short nodes in groups of their own."""
    profile = yaml.safe_load((PROFILES / "grouped" / "config.yaml").read_text())
    profile["groups"] += SHORT
    (folder / "profile").mkdir()
    (folder / "profile" / "config.yaml").write_text(yaml.safe_dump(profile))
    workflow = Workflow(folder / "grouped", folder / "checkpoint")
    options = ["--workflow-profile", str(folder / "profile"), "--set-resources"]
    options += [f"{rule}:gpu=1" for rule in ("localize", "fit", "evaluate")]
    made = Background(workflow, lambda workflow: workflow.start_on_cluster(*options))
    yield made
    made.stop()
    show("in groups, undisturbed", workflow.folder)


@dataclass
class Troubled:
    """What happened to a workflow on the cluster, from its first driver to its last."""

    workflow: Workflow
    jobs: list[JobRecord]
    orphans: list[str]
    listed: str
    left: str
    hurt: dict[str, str]
    outage: str
    exit_code: int

    def of(self, rule: str, method: str = "") -> list[JobRecord]:
        return [job for job in self.jobs if job.comment.startswith(f"rule_{rule}_") and method in job.comment]


@pytest.fixture(scope="module")
def troubled(
    folder: Path, cluster: Cluster, local: Background, grouped: Background, show: Callable[[str, Path], None]
) -> Iterator[Troubled]:
    workflow = Workflow(folder / "troubled", folder / "checkpoint")
    options = ["--groups", *SHORT, "--set-resources", "fit:gpu=1"]
    hurt: dict[str, str] = {}

    def active() -> bool:
        return any(job.state in ("PENDING", "RUNNING", "COMPLETING") for job in cluster.jobs(workflow.folder))

    def started(verb: str, part: str = "") -> list[str]:
        """SLURM jobs of all executions of a verb so far."""
        return [job for job, command in workflow.executions() if verb_of(command.split()) == verb and part in command]

    workflow.fault("hang", "evaluate", "/base-")
    workflow.fault("hang", "localize")
    driver = workflow.start_on_cluster(*options)
    grouped.start()
    try:
        wait_in(workflow, driver, "two nodes at work", lambda: started("localize") and started("evaluate"))
        driver.kill()  # SIGKILL
        driver.wait()
        orphans = sorted([*started("localize"), *started("evaluate")])
        listed = workflow.lofit("slurm", "orphans")
        workflow.lofit("slurm", "orphans", "--cancel")
        wait_for("no active job", lambda: not active(), 60)
        left = workflow.lofit("slurm", "orphans")
        assert workflow.start("--unlock", "--cores", "1").wait(PATIENCE) == 0

        workflow.fault("fail", "localize")
        workflow.fault("hang", "evaluate", "/base-")
        workflow.fault("hang", "fit")
        driver = workflow.start_on_cluster(*options)
        wait_in(
            workflow,
            driver,
            "two more",
            lambda: len(started("localize")) == 2 and len(started("evaluate", "/base-")) == 2,
        )
        hurt["failed"], hurt["timeout"] = started("localize")[1], started("evaluate", "/base-")[1]
        cluster.ask("scontrol", "update", f"JobId={hurt['timeout']}", "TimeLimit=1")
        local.start()
        wait_in(workflow, driver, "the fit", lambda: started("fit"))
        hurt["cancelled"] = started("fit")[0]
        cluster.ask("scancel", hurt["cancelled"])
        wait_in(workflow, driver, "an attempt after the time limit", lambda: len(started("evaluate", "/base-")) == 3)
        grouped.done()  # before the controller is away
        said = len(workflow.log.read_bytes())
        cluster.stop_controller()
        asked = "a question to the absent controller"
        wait_in(workflow, driver, asked, lambda: b"Falling back" in workflow.log.read_bytes()[said:])
        cluster.start_controller()
        wait_for("the controller", cluster.answers, 30)
        outage = workflow.log.read_bytes()[said:].decode()
        exit_code = finish(driver, workflow)
        yield Troubled(workflow, cluster.jobs(workflow.folder), orphans, listed, left, hurt, outage, exit_code)
    finally:
        show("killed driver, failing node, time limit, scancel, controller away", workflow.folder)
        driver.kill()
        driver.wait()


def states(jobs: list[JobRecord]) -> list[str]:
    return [job.state for job in jobs]


def assert_same(workflow: Workflow, reference: Workflow) -> None:
    pd.testing.assert_frame_equal(workflow.results(), reference.results(), check_exact=True)
    pd.testing.assert_frame_equal(workflow.items(), reference.items(), check_exact=True)
    assert workflow.table() == reference.table()
    assert (workflow.results()["status"] == "ok").all()


def assert_nothing_twice(workflow: Workflow, jobs: list[JobRecord], reference: Workflow) -> None:
    """Every node of the local run was brought to its end by one job, and by one alone."""
    completed = {job.id for job in jobs if job.state == "COMPLETED"}
    produced = Counter(command for job, command in workflow.executions() if job in completed)
    expected = [command for _, command in reference.executions()]
    assert produced == Counter(expected)
    assert max(produced.values()) == 1


def test_an_undisturbed_run_in_groups_equals_a_local_run(
    troubled: Troubled, grouped: Background, local: Background, cluster: Cluster
) -> None:
    workflow = grouped.done()
    jobs = cluster.jobs(workflow.folder)
    assert states(jobs) == ["COMPLETED"] * 4
    assert sorted(job.comment for job in jobs) == [
        "rule_report_collect_part_table",
        "rule_sources_fetch",
        "rule_sources_prepare",
        "rule_tiny_evaluate_fit_localize",
    ]
    [chain] = [job for job in jobs if job.comment.startswith("rule_tiny_")]
    assert chain.extra == "gres:gpu:1", "two of its nodes could run at once on two GPUs, and one must be enough"
    submitted = re.findall(r"has been submitted with SLURM jobid (\d+)", workflow.log.read_text())
    assert sorted(submitted, key=int) == [job.id for job in jobs]
    assert_same(workflow, local.done())
    assert_nothing_twice(workflow, jobs, local.done())


def test_a_killed_driver_leaves_jobs_that_are_found_and_cancelled(troubled: Troubled) -> None:
    rows = re.findall(r"^│ +(\d+) +│ +RUNNING +│.*│ +rule_(\w+?)_", troubled.listed, re.MULTILINE)
    assert sorted(job for job, _ in rows) == troubled.orphans
    assert sorted(rule for _, rule in rows) == ["evaluate", "localize"]
    assert {job.state for job in troubled.jobs if job.id in troubled.orphans} == {"CANCELLED"}
    assert "no jobs" in troubled.left


@pytest.mark.parametrize(
    ("what", "rule", "method", "state"),
    [
        ("failed", "localize", "", "FAILED"),
        ("timeout", "evaluate", "base", "TIMEOUT"),
        ("cancelled", "fit", "", "CANCELLED"),
    ],
)
def test_a_node_that_is_lost_is_submitted_once_more(
    what: str, rule: str, method: str, state: str, troubled: Troubled
) -> None:
    jobs = [job for job in troubled.of(rule, method) if job.id not in troubled.orphans]
    assert states(jobs) == [state, "COMPLETED"]
    assert jobs[0].id == troubled.hurt[what]
    assert f"SLURM-job '{jobs[0].id}' failed, SLURM status is: '{state}'" in troubled.workflow.log.read_text()


def test_a_second_attempt_asks_for_more_and_a_gpu_is_asked_for(troubled: Troubled) -> None:
    first, second = troubled.of("fit")
    assert (first.extra, second.extra, troubled.of("localize")[0].extra) == ("gres:gpu:1", "gres:gpu:1", "")
    memory = [int(re.search(r"mem=(\d+)M", job.tres)[1]) for job in (first, second)]  # type: ignore[index]
    assert memory[1] == 2 * memory[0]
    assert 1000 <= memory[0] < 2000


def test_the_controller_may_be_away(troubled: Troubled) -> None:
    assert "Falling back to 'sacct' for status queries (MinJobAge=None" in troubled.outage


def test_after_all_that_the_results_are_those_of_a_local_run(troubled: Troubled, local: Background) -> None:
    assert troubled.exit_code == 0, troubled.workflow.log.read_text()[-4000:]
    assert_same(troubled.workflow, local.done())
    assert_nothing_twice(troubled.workflow, troubled.jobs, local.done())
