"""What the workflow prints while it runs: one line per node (a logger plugin of Snakemake)."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from logging import WARNING, LogRecord
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

_SAID_BY_LINES = ("RuleException", "At least one job did not complete", "Exiting because a job execution failed")
"""What Snakemake says beside the error of a job."""


@dataclass
class _Job:
    rule: str
    log: Path | None
    wildcards: dict[str, Any]
    begun: float

    @property
    def name(self) -> str:
        """What it works on, if it has not said so itself."""
        return " ".join([self.rule, *map(str, self.wildcards.values())])

    def last_line(self, beginning: str = "") -> str | None:
        """The last line of its log that begins so."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log else []
        except OSError:
            lines = []
        return next((line for line in reversed(lines) if line.strip() and line.startswith(beginning)), None)


class LogHandler(LogHandlerBase):
    """Prints, on a terminal, each finished node with what came of it, how many there are, and the time left.

    Elsewhere only errors and warnings are printed. The time left is what nodes of each rule took so far, times the
    number that is left, over how many ran at once; it is not told while there is no such time for half of the rest.
    """

    def __post_init__(self) -> None:
        self.jobs: dict[int, _Job] = {}
        self.left: Counter[str] = Counter()
        self.took: defaultdict[str, list[float]] = defaultdict(list)
        self.done = self.total = 0
        self.failed: dict[int, str] = {}
        """Rule of each job that has failed and was not started again."""
        self.ended = False
        self.configfile = "config.yaml"
        self.began = time.monotonic()

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def emit(self, record: LogRecord) -> None:
        """Print what an event of Snakemake has to say, if anything."""
        event, given = getattr(record, "event", None), record.__dict__
        if event == LogEvent.WORKFLOW_STARTED and given["configfiles"]:
            self.configfile = os.path.relpath(given["configfiles"][0])
        elif event == LogEvent.RUN_INFO:
            self.left = Counter({rule: n for rule, n in given["stats"].items() if rule not in ("all", "total")})
            self.total = sum(self.left.values())
            if self.common_settings.dryrun and not self.ended:  # Snakemake says it again at the end
                self.ended = True
                self._print(f"{self.total} would run: " + ", ".join(f"{n} {rule}" for rule, n in self.left.items()))
        elif event == LogEvent.JOB_INFO:
            log = Path(given["log"][0]) if given["log"] else None
            self.failed.pop(given["jobid"], None)  # it is tried again
            self.jobs[given["jobid"]] = _Job(given["rule_name"], log, dict(given["wildcards"] or {}), time.monotonic())
        elif event == LogEvent.JOB_FINISHED:
            if job := self.jobs.get(given["job_id"]):
                self._finished(job)
        elif event in (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR):
            for info in given["job_error_info"] if event == LogEvent.GROUP_ERROR else [given]:
                if info["jobid"] not in self.failed:  # an error of a group is one of each of its jobs, too
                    self._failed(info["jobid"], info["rule_name"])
        elif record.getMessage().startswith("Nothing to be done"):
            self._print("Nothing to do: everything is there.")
        elif record.levelno >= WARNING and not any(said in record.getMessage() for said in _SAID_BY_LINES):
            self._print(record.getMessage())

    def close(self) -> None:
        """Print what came of the workflow, and what to do next."""
        config = shlex.quote(self.configfile)
        if self.ended:
            pass
        elif self.failed:
            self._print(
                f"{len(self.failed)} node{'s' * (len(self.failed) > 1)} ended with an error, {self.done} of "
                f"{self.total} are done. "
                f"See: lofit status {config}; to go on: lofit run {config}"
            )
        elif self.done and sys.stderr.isatty():
            took = duration(time.monotonic() - self.began)
            self._print(f"{self.done} nodes in {took}. Next: lofit summary --configfile {config}")
        self.ended = True
        super().close()

    def _finished(self, job: _Job) -> None:
        if job.rule == "all":
            return
        seconds = time.monotonic() - job.begun
        self.took[job.rule].append(seconds)
        self.left[job.rule] -= 1
        self.done += 1
        if sys.stderr.isatty():
            what = job.last_line() if job.rule not in ("collect", "collect_part", "table", "figure", "page") else None
            said = f"{job.rule} {what}" if what else job.name
            self._print(f"[{self.done}/{self.total}] {said}; in {duration(seconds)}{self._time_left()}")

    def _failed(self, id: int, rule: str) -> None:
        self.failed[id] = rule
        job = self.jobs.get(id) or _Job(rule, None, {}, 0.0)
        reason = job.last_line("error: ") or job.last_line() or "error: no log"
        self._print(f"{job.name}: {reason.removeprefix('error: ')}" + (f" (log: {job.log})" if job.log else ""))

    def _time_left(self) -> str:
        known = {rule: sum(took) / len(took) for rule, took in self.took.items()}
        left = self.left - Counter(self.failed.values())
        if not left or sum(n for rule, n in left.items() if rule in known) < sum(left.values()) / 2:
            return ""
        busy = sum(map(sum, self.took.values())) / max(1e-9, time.monotonic() - self.began)
        work = sum(n * known.get(rule, 0.0) for rule, n in left.items())
        return f"; about {duration(work / max(1.0, busy))} left"

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return a time for people: seconds below two minutes, minutes below two hours, else hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
