"""What it costs to be asked: ``lofit --help``, and the dry run of a plan of 10,000 nodes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from lofit.config import parse_config
from lofit.plan.kinds import counts
from lofit.plan.table import RunTable
from perf.common import Claim, report, set_up

ROOT = Path(__file__).parent.parent
ROUNDS, NODES, HELP_SECONDS, DRY_RUN_SECONDS = 5, 10_000, 0.5, 30.0


def seconds_of(*command: str, rounds: int) -> list[float]:
    """Wall seconds of a command that succeeds, run ``rounds`` times."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        found.append(time.perf_counter() - start)
    return found


def big_configuration(folder: Path) -> dict[str, Any]:
    """A comparison over tasks, methods and as many seeds as make up the nodes."""
    raw: dict[str, Any] = {
        "models": ["smollm2-135m"],
        "tasks": dict.fromkeys(("clutrr", "mquake", "siqa", "arc_challenge", "boolq", "svamp", "winogrande")),
        "methods": dict.fromkeys(("base", "lofit", "iti", "repe", "lora", "red", "bias_all_heads")),
        "results": str(folder / "results"),
        "resources": str(folder / "resources"),
    }
    seeds = [0]
    while (n := sum(counts(RunTable(parse_config({**raw, "seeds": seeds}))).values())) < NODES:
        seeds = list(range(max(len(seeds) + 1, len(seeds) * NODES // n)))
    return {**raw, "seeds": seeds}


def claims() -> list[Claim]:
    """Against the times aimed at."""
    found = []
    bare = seconds_of(sys.executable, "-c", "import typer, rich.console", rounds=ROUNDS)
    seconds = seconds_of(sys.executable, "-m", "lofit", "--help", rounds=ROUNDS)
    notes = {"of which Python, typer and rich": f"{sorted(bare)[ROUNDS // 2]:.2f} s"}
    found.append(
        Claim("lofit --help", "half a second", {"ours": seconds, "baseline": [HELP_SECONDS] * ROUNDS}, 1.0, notes)
    )
    with tempfile.TemporaryDirectory() as name:
        raw = big_configuration(Path(name))
        sizes = counts(RunTable(parse_config(raw)))
        configfile = Path(name) / "config.yaml"
        configfile.write_text(yaml.safe_dump(raw), encoding="utf-8")
        command = (sys.executable, "-m", "snakemake", "-n", "--quiet", "--cores", "2", "--configfile", str(configfile))
        seconds = seconds_of(*command, rounds=1)
        what = f"dry run of {sum(sizes.values())} nodes"
        found.append(Claim(what, "half a minute", {"ours": seconds, "baseline": [DRY_RUN_SECONDS]}, 1.0))
    return found


if __name__ == "__main__":
    set_up()
    os.environ.pop("LOFIT_CONFIG", None)
    report("plan", claims())
