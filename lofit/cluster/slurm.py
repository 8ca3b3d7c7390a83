"""Jobs that a killed workflow left in SLURM's queue, found by working folder and by the plugin's comment."""

from __future__ import annotations

import getpass
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from lofit.errors import LofitError

COMMENT = "rule_"
"""How the plugin begins a job's comment, also a group's. The job's name is that of the whole run of the workflow."""
COLUMNS = "%i\t%T\t%M\t%Z\t%k"
"""squeue's columns: id, state, time, working folder, comment."""


@dataclass(frozen=True)
class Job:
    """A job in the queue.

    Attributes:
        id: SLURM's number.
        state: PENDING, RUNNING, ...
        time: for how long it has run, as squeue writes it.
        comment: rule and wildcards, as the plugin writes them.
    """

    id: str
    state: str
    time: str
    comment: str


def orphans(folder: Path) -> list[Job]:
    """Jobs of this user that Snakemake submitted from ``folder`` and that are queued or at work.

    Raises:
        LofitError: SLURM is not here or does not answer, or a workflow is at work in the folder, whose jobs they are.
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
        LofitError: SLURM refused.
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
    """Process of a workflow at work in ``folder`` on this machine; those within jobs, which have a mode, are not it."""
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
