"""Random SIGKILLs of Snakemake, its nodes and its servers of nodes; the results must be those of an undisturbed run.

``python -m tests.faults.kills --kills 100`` prints its counts. The nodes and servers of a killed Snakemake must end
with it, and nothing of a finished one may be left, but for the socket of a killed server: if Snakemake is killed next,
nothing is left to remove it until another server of this user starts.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from lofit.node_server.client import OWNER, remove_unbound, verb
from lofit.node_server.server import LIBRARIES, MODEL
from tests.workflows import MEASURED, TRAINING, Workflow

DRIVERS = 0.3
"""Share of kills that are meant for Snakemake itself."""
VERBS = {"collect_part": "collect", "table": "render", "figure": "render", "page": "render"}
"""Commands of rules that are called otherwise."""
LONGEST_PAUSE = 8.0
"""Seconds before a kill, at most: about as long as a node. With longer ones, more runs come to their end."""


def miniature(folder: Path) -> Workflow:
    """A workflow of every kind of node, whose training is saved after every step.

    All of them share one checkpoint, since its path is part of what a result is called by.
    """
    folder.mkdir(parents=True)
    made = Workflow(folder)
    shared = folder.parent / "checkpoint"
    if not shared.exists():
        (folder / "checkpoint").rename(shared)
    made.config["model_sources"]["tiny"]["source"]["path"] = str(shared)
    trained = TRAINING | {"epochs": 3, "batch_size": 2}
    made.config["methods"] = {
        "base": None,
        "iti": {"heads": {"k": [3]}},
        "lofit": {"heads": {"k": [3], "params": trained}, "params": trained},
        "lora": {"params": trained},
    }
    del made.config["transfer"]
    made.config["training"] = {"save_minutes": 0}
    (folder / "tmp").mkdir()
    made.variables |= {"TMPDIR": str(folder / "tmp"), OWNER: ""}
    return made


def runtime(made: Workflow) -> Path:
    """Folder of the sockets of its servers, which it shares with no other workflow."""
    return made.folder / "tmp" / f"lofit-nodes-{os.getuid()}"


def outcome(made: Workflow) -> tuple[list[str], pd.DataFrame]:
    """All files of a finished run but logs, timings and Snakemake's marks, and its scores without costs."""
    files = [
        str(path.relative_to(made.folder))
        for top in ("results", "resources")
        for path in (made.folder / top).rglob("*")
        if not {"logs", "benchmarks", ".snakemake_timestamp"} & set(path.relative_to(made.folder).parts)
    ]
    results = pd.read_parquet(made.folder / "results" / "results.parquet")
    results = results[[name for name in results if not any(part in name for part in MEASURED)]]
    order = ["run_id", "eval_task", "protocol", "metric"]
    return sorted(files), results.sort_values(order).reset_index(drop=True)


def processes_of(driver: psutil.Process | None, runtime: Path) -> dict[psutil.Process, str]:
    """What works for a driver: its nodes, the forks in which they compute, and the servers, by name.

    Args:
        driver: a running Snakemake; None: for the servers alone.
        runtime: folder of the sockets of its servers.

    Returns:
        by process ``lofit <verb>``, whose verb is the name of its rule, or the name of a server.
    """
    found = {}
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if command[1:3] == ["-m", "lofit.cli.server"] and Path(command[3]).parent == runtime:
                found[process] = process.name()
            elif driver and command[1:3] == ["-m", "lofit"] and driver in process.parents():
                found[process] = f"lofit {verb(command[3:])}"
        except psutil.Error:
            continue  # it ended meanwhile
    return found


class Storm:
    """Runs of a workflow in new folders under random kills, until there were enough of them."""

    def __init__(
        self, folder: Path, reference: tuple[list[str], pd.DataFrame], seed: int, longest_pause: float = LONGEST_PAUSE
    ) -> None:
        self.folder, self.reference, self.longest_pause = folder, reference, longest_pause
        self.random = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.starts, self.finished = 0, 0

    def run(self, kills: int) -> None:
        """Kill at random that often, and let every run come to its end.

        Raises:
            AssertionError: a run ended otherwise than the undisturbed one.
        """
        while self.kills.total() < kills:
            made = miniature(self.folder / f"run{self.finished}")
            while not self._start(made, kills):
                unlocked = made.snakemake("--unlock")
                assert unlocked.returncode == 0, unlocked.stderr[-2000:]
            self._compare(made)
            self.finished += 1
            print(f"run {self.finished}: equal; {self.counts()}", flush=True)

    def counts(self) -> str:
        """How much was killed, and what."""
        killed = ", ".join(f"{count} x {name}" for name, count in sorted(self.kills.items()))
        return f"{self.kills.total()} kills ({killed}) in {self.starts} starts, {self.finished} finished runs"

    def _start(self, made: Workflow, kills: int) -> bool:
        """Start Snakemake once, and kill it or nodes of it; whether it came to its end."""
        self.starts += 1
        killed: set[str] = set()  # verbs of nodes, and names of servers
        log = made.folder / "driver.log"
        with log.open("w") as file:
            driver = psutil.Popen(made.command(), env=made.environment(), cwd=made.folder, stdout=file, stderr=file)
        while True:
            if self.kills.total() >= kills:
                code = driver.wait()
            else:
                try:
                    code = driver.wait(timeout=self.random.uniform(0, self.longest_pause))
                except psutil.TimeoutExpired:
                    if self._kill(driver, made, killed):
                        return False
                    continue
            self._require_gone([], made, killed)
            failed = re.findall(r"^Error in rule (\w+):", log.read_text(), re.MULTILINE)
            verbs = {VERBS.get(rule, rule) for rule in failed}
            assert all(verb.startswith(tuple(killed)) for verb in verbs), log.read_text()[-4000:]
            assert (code == 0) == (not failed), log.read_text()[-4000:]
            return bool(code == 0)

    def _kill(self, driver: psutil.Popen, made: Workflow, killed: set[str]) -> bool:
        """Kill the driver, or what works for it, which is added to ``killed``. Whether it was the driver."""
        try:
            working = processes_of(driver, runtime(made))
            if self.random.random() < DRIVERS:
                victim, name = driver, "snakemake"
            elif working:
                kind = self.random.choice(sorted(set(working.values())))  # so that servers are not spared
                victim = self.random.choice([process for process, name in working.items() if name == kind])
                name = kind
            else:
                return False
            victim.kill()
        except psutil.NoSuchProcess:
            return False
        self.kills[name] += 1
        if victim is driver:
            driver.wait()
            self._require_gone(working, made, killed)
        else:
            killed.add(name.removeprefix("lofit "))  # of a fork cut to what fits into a name of the kernel
        return victim is driver

    def _require_gone(self, working: Iterable[psutil.Process], made: Workflow, killed: set[str]) -> None:
        """Wait until what worked for a driver that has ended has ended too, servers and their sockets included."""
        _, alive = psutil.wait_procs(working, timeout=30)
        assert not alive, f"nodes of a Snakemake that has ended are still at work: {alive}"
        end = time.monotonic() + 30
        while left := [*processes_of(None, runtime(made)).values(), *runtime(made).glob("*")]:
            assert time.monotonic() < end, f"left behind by a Snakemake that has ended: {left}"
            time.sleep(0.1)
            if killed & {LIBRARIES, MODEL}:
                remove_unbound(runtime(made))  # as the next server would

    def _compare(self, made: Workflow) -> None:
        files, results = outcome(made)
        assert files == self.reference[0], set(files) ^ set(self.reference[0])
        pd.testing.assert_frame_equal(results, self.reference[1], check_exact=True)
        again = made.planned()
        assert again == Counter(), f"a finished run has something to do: {again}"


def undisturbed(folder: Path) -> tuple[list[str], pd.DataFrame]:
    """What a run without kills ends with."""
    made = miniature(folder)
    made.run()
    return outcome(made)


def main(arguments: Any = None) -> None:
    """Run and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest-pause", type=float, default=LONGEST_PAUSE, help="seconds before a kill, at most")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lofit-kills-") as folder:
        storm = Storm(Path(folder), undisturbed(Path(folder) / "undisturbed"), options.seed, options.longest_pause)
        storm.run(options.kills)
    print(f"{storm.counts()}: every results.parquet equal, no stray file; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
