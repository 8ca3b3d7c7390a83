"""Two runs of one configuration in two folders: adapters, rankings, samples and tables must be equal byte for byte.

``python -m tests.faults.twice --configfile config/smoke.yaml`` prints what was compared. Of tables and reports, what
says how long something took, or how much memory, is left out. With ``--alone`` the second run has no server of nodes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lofit.files import read_json
from tests.workflows import MEASURED, REPOSITORY

SKIPPED = ("logs", "benchmarks", "plan", ".snakemake_timestamp", "report.html", "entry.json")
"""Times and paths of this very run, the page that prints them, and checksums of what holds them."""


def run(configuration: dict[str, Any], folder: Path, resources: Path) -> Path:
    """Run a configuration in a folder of its own, with models and data shared; returns the folder of its results.

    Raises:
        CalledProcessError: it failed; the output was printed.
    """
    folder.mkdir(parents=True)
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(configuration | {"results": "results", "resources": str(resources)}))
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--snakefile", str(REPOSITORY / "Snakefile")]
    command += ["--directory", str(folder), "--configfile", str(file), "--quiet", "all"]
    if mirror := os.environ.get("LOFIT_DATA_MIRROR"):
        command += ["--config", f"data_mirror={mirror}"]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return folder / "results"


def comparable(file: Path) -> bytes:
    """The content of a file, without costs."""
    if file.suffix in (".parquet", ".csv"):
        frame = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)
        return frame[[name for name in frame if not any(cost in name for cost in MEASURED)]].to_csv().encode()
    if file.suffix == ".json":
        return json.dumps(_without_costs(json.loads(file.read_text()))).encode()
    return file.read_bytes()


def _without_costs(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_costs(entry) for key, entry in value.items() if not any(cost in key for cost in MEASURED)}
    return [_without_costs(entry) for entry in value] if isinstance(value, list) else value


def differences(first: Path, second: Path) -> tuple[Counter[str], list[str]]:
    """Compare two folders of results.

    Returns:
        number of files compared by suffix; and the files that differ, or that only one of the folders has.
    """
    files = [
        {
            path.relative_to(top)
            for path in top.rglob("*")
            if path.is_file() and not set(SKIPPED) & set(path.relative_to(top).parts)
        }
        for top in (first, second)
    ]
    both = sorted(files[0] & files[1])
    unequal = [str(path) for path in both if comparable(first / path) != comparable(second / path)]
    return Counter(path.suffix for path in both), [*unequal, *map(str, sorted(files[0] ^ files[1]))]


def main(arguments: Any = None) -> None:
    """Run twice, compare, and exit with 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", type=Path, default=REPOSITORY / "config" / "smoke.yaml")
    parser.add_argument("--alone", action="store_true", help="without a server of nodes in the second run")
    options = parser.parse_args(arguments)
    configuration = yaml.safe_load(options.configfile.read_text())
    with tempfile.TemporaryDirectory(prefix="lofit-twice-") as top:
        folders = []
        for name in ("one", "two"):
            started = time.monotonic()
            served = {"node_server": name == "one" or not options.alone}
            folders.append(run(configuration | served, Path(top) / name, Path(top) / "resources"))
            reports = [read_json(file) for file in folders[-1].rglob("*.json")]
            starts = [report["start_seconds"] for report in reports if report.get("start_seconds")]
            print(
                f"{name}: {time.monotonic() - started:.0f} s; start of a node {statistics.median(starts):.1f} s "
                f"(median of {len(starts)})"
            )
        compared, unequal = differences(*folders)
    print(f"compared {compared.total()} files: {', '.join(f'{n} x {s}' for s, n in compared.most_common())}")
    print("\n".join([f"{len(unequal)} differ", *unequal]))
    sys.exit(bool(unequal))


if __name__ == "__main__":
    main()
