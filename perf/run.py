"""Run every benchmark in a process of its own and write ``perf/results.{json,md}``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from perf.common import Claim, machine

HERE = Path(__file__).parent
SCRIPTS = ["plan", "step", "fit", "dpo", "scoring choices", "scoring generation", "memory A", "memory V", "growth"]


def main() -> int:
    """Run all, or those named on the command line; the number that failed."""
    found, failed = [], []
    on_gpu = ["shapes"] if torch.cuda.is_available() else []
    for script in sys.argv[1:] or SCRIPTS + on_gpu:
        print(f"== {script}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "claims.json"
            command = [sys.executable, "-m", *f"perf.{script}".split()]
            done = subprocess.run(command, env=os.environ | {"BENCH_OUT": str(out)}, check=False)
            if done.returncode:
                failed.append(script)
            else:
                found += json.loads(out.read_text(encoding="utf-8"))
    described = machine()
    (HERE / "results.json").write_text(
        json.dumps({"machine": described, "claims": found}, indent=1) + "\n", encoding="utf-8"
    )
    lines = ["# Benchmarks", "", ", ".join(f"{name} {value}" for name, value in described.items()), ""]
    lines.append("Ratios are baseline over ours: median [least, greatest] over the rounds, run in turn.")
    lines.append("")
    fields = ("what", "baseline", "measured", "target", "notes", "unit")
    lines += [f"- {Claim(**{name: claim[name] for name in fields}).line()}" for claim in found]
    lines += [f"- {script}: failed" for script in failed]
    (HERE / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
