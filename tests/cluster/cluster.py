"""A SLURM cluster of one node with fake CPUs and fake GPUs: real munged, slurmctld and slurmd on loopback."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

ETC = Path("/etc/slurm")
MARK = "# Written by the tests of LoFiT Bench; state in "
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
SBIN = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
COLUMNS = {
    "id": "JobId",
    "state": "JobState",
    "submitted": "SubmitTime",
    "started": "StartTime",
    "ended": "EndTime",
    "limit": "TimeLimit",
    "tres": "TRES",
    "extra": "TresPerJob",
    "comment": "Comment",
    "folder": "WorkDir",
}
"""Fields of a job record, and what scontrol calls them."""
NAME = "lofit-tests"
SETTINGS = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/slurmctld
SlurmdSpoolDir={folder}/slurmd
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
MinJobAge=3600
KillWait=5
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=1440 DefaultTime=5 State=UP
"""


@dataclass(frozen=True)
class JobRecord:
    """A job as the controller remembers it, also after its end."""

    id: str
    state: str
    submitted: str
    started: str
    ended: str
    limit: str
    tres: str
    extra: str
    comment: str
    folder: str


def why_not() -> str | None:
    """Why no cluster can be run here, or None."""
    if os.geteuid() != 0:
        return "its daemons run as root"
    if missing := [program for program in PROGRAMS if not shutil.which(program, path=SBIN)]:
        return f"{', '.join(missing)} not installed (apt-get install munge slurm-wlm)"
    if not importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        return "snakemake-executor-plugin-slurm not installed"
    for name in ("slurm.conf", "gres.conf"):
        if (ETC / name).exists() and not (ETC / name).read_text().startswith(MARK):
            return f"{ETC / name} is of another cluster"
    try:
        address = socket.gethostbyname(_host())
    except OSError:
        address = None
    return None if address and address.startswith("127.") else f"the host name {_host()} is not a loopback address"


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def wait_for(what: str, done: Callable[[], object], seconds: float) -> None:
    """Wait until ``done()`` is true.

    Raises:
        TimeoutError: it was not within ``seconds``.
    """
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.2)


class Cluster:
    """The cluster, from :meth:`start` to :meth:`stop`; everything of it is in one folder but two files in /etc."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lofit-slurm-", dir="/run"))
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the daemons and wait until the node takes jobs."""
        _stop_abandoned()
        self.folder.chmod(0o755)  # munge's socket is for everybody
        for name in ("slurmctld", "slurmd"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        head = f"{MARK}{self.folder}\n"
        ETC.mkdir(exist_ok=True)
        (ETC / "slurm.conf").write_text(head + SETTINGS.format(name=NAME, host=_host(), folder=self.folder))
        (ETC / "gres.conf").write_text(head + "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
        self._start("munged", "--foreground", *(f"--{name}={path}" for name, path in self._munge_files().items()))
        wait_for("munged", (self.folder / "munge.socket").exists, 10)
        self.start_controller()
        self._start("slurmd", "-D")
        wait_for("an idle node", lambda: self.ask("sinfo", "--noheader", "--format=%T") == "idle", 30)

    def _munge_files(self) -> dict[str, Path]:
        names = {"key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed", "socket": "socket"}
        return {option: self.folder / f"munge.{end}" for option, end in names.items()}

    def start_controller(self) -> None:
        """Start slurmctld."""
        self._start("slurmctld", "-D")

    def stop_controller(self) -> None:
        """Stop slurmctld; running jobs go on."""
        self._stop("slurmctld")

    def answers(self) -> bool:
        """Whether the controller does."""
        return subprocess.run(["scontrol", "ping"], capture_output=True, check=False).returncode == 0

    def stop(self) -> None:
        """Cancel all jobs, stop the daemons by their process ids, kill what jobs left, and remove every file."""
        try:
            if "slurmctld" in self.daemons and self.answers():
                for job in self.ask("squeue", "--noheader", "--format=%i").split():
                    self.ask("scancel", job)
                with contextlib.suppress(TimeoutError):
                    wait_for("an empty queue", lambda: not self.ask("squeue", "--noheader", "--format=%i"), 30)
        finally:
            for name in ("slurmd", "slurmctld", "munged"):
                self._stop(name)
            for process in psutil.process_iter():  # of killed parents, which scancel does not reach
                with contextlib.suppress(psutil.Error):
                    if process.environ().get("SLURM_CLUSTER_NAME") == NAME:
                        process.kill()
            for name in ("slurm.conf", "gres.conf"):
                (ETC / name).unlink(missing_ok=True)
            shutil.rmtree(self.folder)

    def _start(self, name: str, *arguments: str) -> None:
        program = shutil.which(name, path=SBIN)
        assert program
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                [program, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        (self.folder / f"{name}.started").write_text(str(self.daemons[name].pid))

    def _stop(self, name: str) -> None:
        if daemon := self.daemons.pop(name, None):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def ask(self, *command: str) -> str:
        """What one of SLURM's programs prints; empty if it fails."""
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    def jobs(self, folder: Path) -> list[JobRecord]:
        """All jobs that were submitted from ``folder``, ended ones too, in the order of submission."""
        found = []
        for line in self.ask("scontrol", "--oneliner", "show", "jobs").splitlines():
            values = dict(word.partition("=")[::2] for word in line.split())
            if "JobId" in values:
                found.append(JobRecord(**{name: values.get(key, "") for name, key in COLUMNS.items()}))
        return sorted((job for job in found if job.folder == str(folder)), key=lambda job: int(job.id))


def _stop_abandoned() -> None:
    """Stop the daemons of an earlier run of the tests that was killed, by the ids that it left."""
    file = ETC / "slurm.conf"
    if not file.exists():
        return
    folder = Path(file.read_text().splitlines()[0].removeprefix(MARK))
    for started in folder.glob("*.started"):
        with contextlib.suppress(psutil.NoSuchProcess):
            daemon = psutil.Process(int(started.read_text()))
            if daemon.name() == started.stem:
                daemon.kill()
                daemon.wait(10)
    shutil.rmtree(folder, ignore_errors=True)
