"""Find and cancel jobs that a killed workflow left in SLURM's queue.

They are recognised by their working folder and by the comment that Snakemake's SLURM plugin gives them.
"""

from __future__ import annotations

import getpass
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from lofit.errors import LofitError

COMMENT = "rule_"
"""Beginning of the comment that the plugin gives each job or group. (The job name is the same for a whole run.)"""
COLUMNS = "%i\t%T\t%M\t%Z\t%k"
"""Columns of squeue: id, state, time, working folder, comment."""


@dataclass(frozen=True)
class Job:
    """A job in the queue.

    Attributes:
        id: the job id.
        state: PENDING, RUNNING, ...
        time: how long the job has run, as squeue formats it.
        comment: rule and wildcards, as the plugin formats them.
    """

    id: str
    state: str
    time: str
    comment: str


def orphans(folder: Path) -> list[Job]:
    """Return the pending and running jobs of this user that Snakemake submitted from ``folder``.

    Raises:
        LofitError: SLURM is not available or does not answer, or the jobs belong to a workflow that is still running in
            ``folder``.
    """
    place = folder.resolve()
    listed = _run("squeue", "--noheader", f"--user={getpass.getuser()}", f"--format={COLUMNS}")
    found = []
    for line in listed.splitlines():
        job, state, time, workdir, comment = line.split("\t", 4)
        if Path(workdir).resolve() == place and comment.startswith(COMMENT):
            found.append(Job(job, state, time, comment))
    if found and (driver := _driver(place)):
        raise LofitError(
            f"{folder}: these are the jobs of a workflow that is at work (process {driver}); "
            f"`kill -INT {driver}` stops it and cancels them"
        )
    return found


def cancel(jobs: list[Job]) -> None:
    """Cancel jobs.

    Raises:
        LofitError: ``scancel`` is not available or failed.
    """
    _run("scancel", *(job.id for job in jobs))


def _run(program: str, *arguments: str) -> str:
    if not shutil.which(program):
        raise LofitError(
            f"{program} is not there; run this where jobs are submitted from, with SLURM's programs on PATH"
        )
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise LofitError(f"{program} failed ({said}); is SLURM's controller up? try again later")
    return done.stdout


def _driver(folder: Path) -> int | None:
    """Return the process id of a workflow that runs in ``folder`` on this machine; None if there is none.

    Snakemake processes inside jobs are not counted; they are recognised by their option ``--mode``.
    """
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if process.cwd() != str(folder) or "--mode" in words:
                continue
        except psutil.Error:
            continue
        if any(Path(word).name == "snakemake" for word in words[:3]):
            return int(process.pid)
    return None
