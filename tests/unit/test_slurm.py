"""Jobs left behind in SLURM's queue, and the stand-in for sacct, with stand-ins for SLURM's own programs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lofit.cli.app import app
from lofit.cluster.slurm import Job, cancel, orphans
from lofit.errors import LofitError

REPOSITORY = Path(__file__).parents[2]
SACCT = REPOSITORY / "workflow" / "slurm" / "sacct"

Program = Callable[[str, str], Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Put a shell script on PATH that also notes how it was called, in a file of the name of the program."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")

    def make(name: str, body: str) -> Path:
        calls = tmp_path / f"{name}.calls"
        (folder / name).write_text(f'#!/bin/sh\nfor a; do printf "%s\\n" "$a"; done >> "{calls}"\n{body}\n')
        (folder / name).chmod(0o755)
        return calls

    return make


def queue(*jobs: tuple[str, str, str, Path, str]) -> str:
    lines = "\n".join("\t".join(map(str, job)) for job in jobs)
    return f"cat <<'END'\n{lines}\nEND"


def test_jobs_of_this_folder_that_snakemake_submitted_are_found(tmp_path: Path, program: Program) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    here.mkdir()
    (tmp_path / "link").symlink_to(here)
    calls = program(
        "squeue",
        queue(
            ("7", "RUNNING", "1:02", here, "rule_fit_wildcards_tiny_listops_0_42_lofit_abc"),
            ("8", "PENDING", "0:00", tmp_path / "link", "rule_tiny_evaluate_fit"),
            ("9", "RUNNING", "3:00", other, "rule_fit_wildcards_tiny"),
            ("10", "RUNNING", "3:00", here, "my own job"),
        ),
    )
    assert orphans(here) == orphans(tmp_path / "link") == [
        Job("7", "RUNNING", "1:02", "rule_fit_wildcards_tiny_listops_0_42_lofit_abc"),
        Job("8", "PENDING", "0:00", "rule_tiny_evaluate_fit"),
    ]  # fmt: skip
    assert [job.id for job in orphans(other)] == ["9"]
    assert "--noheader" in calls.read_text()


def test_they_are_cancelled_by_number(tmp_path: Path, program: Program) -> None:
    calls = program("scancel", "")
    cancel([Job("7", "RUNNING", "1:02", "rule_fit"), Job("8", "PENDING", "0:00", "rule_fit")])
    assert calls.read_text() == "7\n8\n"
    program("scancel", "echo 'scancel: error: Access denied' >&2; exit 1")
    with pytest.raises(LofitError, match=r"scancel failed .*Access denied"):
        cancel([Job("7", "RUNNING", "1:02", "rule_fit")])


def test_the_command_lists_and_cancels_only_when_told(tmp_path: Path, program: Program) -> None:
    program("squeue", queue(("7", "RUNNING", "1:02", tmp_path, "rule_fit_wildcards_tiny")))
    cancelled = program("scancel", "")
    listed = CliRunner().invoke(app, ["slurm", "orphans", "--directory", str(tmp_path)])
    assert listed.exit_code == 0
    for part in (" 7 ", "RUNNING", "1:02", "rule_fit_wildcards_tiny", "--cancel"):
        assert part in listed.output
    assert not cancelled.exists()
    done = CliRunner().invoke(app, ["slurm", "orphans", "--cancel", "--directory", str(tmp_path)])
    assert done.exit_code == 0
    assert cancelled.read_text() == "7\n"
    assert "cancelled 1" in done.output


def test_an_empty_queue_is_said(tmp_path: Path, program: Program) -> None:
    program("squeue", "")
    done = CliRunner().invoke(app, ["slurm", "orphans", "--cancel", "--directory", str(tmp_path)])
    assert done.exit_code == 0
    assert "no jobs" in done.output


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "error: squeue is not there"),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", "error: squeue failed (slurm"),
    ],
)
def test_without_slurm_one_line_says_so(body: str | None, message: str, tmp_path: Path, program: Program) -> None:
    if body:
        program("squeue", body)
    env = {**os.environ, "PATH": str(tmp_path / "bin") + (":/bin" if body else ""), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "lofit", "slurm", "orphans"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


def test_jobs_of_a_workflow_at_work_are_no_orphans(tmp_path: Path, program: Program) -> None:
    """A process called snakemake in the folder keeps its jobs; one that runs within a job does not."""
    program("squeue", queue(("7", "RUNNING", "1:02", tmp_path, "rule_fit")))
    idle = "import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", idle, "--mode", "remote", "snakemake"], cwd=tmp_path) as within:
        assert [job.id for job in orphans(tmp_path)] == ["7"]
        within.kill()
    script = tmp_path / "snakemake"
    script.write_text(idle)
    with subprocess.Popen([sys.executable, str(script), "--cores", "1"], cwd=tmp_path) as driver:
        try:
            with pytest.raises(LofitError, match=rf"at work .process {driver.pid}.; `kill -INT {driver.pid}`"):
                orphans(tmp_path)
        finally:
            driver.kill()


def sacct(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SACCT, *arguments], capture_output=True, text=True, check=False)


def test_the_stand_in_answers_the_questions_of_the_plugin(program: Program) -> None:
    from snakemake_executor_plugin_slurm.job_status_query import query_job_status_sacct

    calls = program("squeue", "echo '7|COMPLETED'")
    done = sacct(*shlex.split(query_job_status_sacct("run-1"))[1:])
    assert (done.returncode, done.stdout) == (0, "7|COMPLETED\n")
    assert calls.read_text().splitlines() == ["--noheader", "--states=all", "--format=%i|%T", "--name", "run-1"]
    done = sacct("-j", "7", "-n", "-X", "-o", "nodelist%-256")
    assert done.returncode == 0
    assert calls.read_text().splitlines()[-2:] == ["--jobs", "7"]
    program("scontrol", "echo 'JobId=7 JobState=FAILED Reason=NonZeroExitCode Dependency=(null)'")
    assert sacct("-j", "7.0", "--format=Reason", "--noheader").stdout == "NonZeroExitCode\n"
    account = sacct("-nu", "me", "-o", "Account%256", "|", "tail", "-1")
    assert (account.returncode, account.stdout, account.stderr) == (0, "", "")


def test_the_stand_in_fails_when_the_controller_is_away_and_refuses_what_it_does_not_know(program: Program) -> None:
    program("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert sacct("--format=JobIdRaw,State", "--name", "run-1").returncode == 1
    for strange in (["--json"], ["-j", "7", "--format=Elapsed"]):
        done = sacct(*strange)
        assert done.returncode == 2
        assert "a stand-in, which does not know" in done.stderr


def test_the_profile_keeps_to_what_works() -> None:
    folder = REPOSITORY / "workflow" / "profiles"
    profile, default = (yaml.safe_load((folder / name / "config.yaml").read_text()) for name in ("slurm", "default"))
    assert default.items() <= profile.items()
    assert profile["executor"] == "slurm"
    assert profile["slurm-status-command"] == "squeue"
    assert not [key for key in profile if "array" in key]
    assert not [path for path in (REPOSITORY / "workflow" / "rules").glob("*.smk") if "retries:" in path.read_text()]


def test_settings_of_a_site_take_effect_when_uncommented(tmp_path: Path) -> None:
    text = (REPOSITORY / "workflow" / "profiles" / "slurm" / "config.yaml").read_text()
    head, site, rest = re.split(r"^# ----.*\n", text, flags=re.MULTILINE)
    (tmp_path / "config.yaml").write_text(head + re.sub(r"^# ", "", site, flags=re.MULTILINE) + rest)
    jobs = asked_for(tmp_path, tmp_path, REPOSITORY / "config" / "smoke.yaml")
    for rule, resources in jobs:
        on_gpu = rule in ("activations", "localize", "fit", "evaluate")
        if rule != "all":
            assert f"slurm_partition={'gpu' if on_gpu else 'cpu'}" in resources
            assert "slurm_account=my-project" in resources
            assert ("gpu_model=a100" in resources) == on_gpu
    assert {"fit", "evaluate", "localize", "prepare", "collect"} <= {rule for rule, _ in jobs}


@pytest.mark.parametrize("gpus", [1, 2])
def test_the_gpus_of_a_model_are_asked_for_on_one_machine(gpus: int, tmp_path: Path) -> None:
    large = {"source": {"kind": "hub", "repo": "a/large", "revision": "main"}, "n_layers": 30, "n_heads": 9}
    config = yaml.safe_load((REPOSITORY / "config" / "smoke.yaml").read_text())
    config |= {"device": "cuda", "models": ["large"], "model_sources": {"large": large | {"gpus": gpus}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    jobs = asked_for(tmp_path, REPOSITORY / "workflow" / "profiles" / "slurm", tmp_path / "config.yaml")
    seen = {
        rule: tuple(re.findall(r"\b(gpu|nodes)=(\d+)", resources))
        for rule, resources in jobs
        if rule in ("fit", "evaluate", "localize", "prepare")
    }
    expected = (("gpu", str(gpus)), *[("nodes", "1")] * (gpus > 1))
    assert seen == dict.fromkeys(("fit", "evaluate", "localize"), expected) | {"prepare": (("gpu", "0"),)}


def asked_for(folder: Path, profile: Path, config: Path) -> list[tuple[str, str]]:
    """Rule and resources of every job that a profile would submit."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--profile", str(profile)]
    command += ["--configfile", str(config), "--directory", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return re.findall(
        r"^(?:local)?rule (\w+):.*?resources: ([^\n]*)", done.stdout + done.stderr, re.MULTILINE | re.DOTALL
    )
