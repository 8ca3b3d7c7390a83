"""A miniature of the workflow on a tiny random model, for tests that run Snakemake."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from lofit.config import parse_config
from lofit.plan.nodes import FitNode
from lofit.plan.table import RunTable
from tests.checkpoint import save_checkpoint

REPOSITORY = Path(__file__).parents[1]
TRAINING = {"epochs": 1, "lr": 0.01}
MEASURED = ("seconds", "memory", "tokens_per_second")
"""Parts of the names of columns and keys whose values differ from run to run; nothing else may."""


class Workflow:
    """A configuration and a folder in which `snakemake` runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        checkpoint = save_checkpoint(folder / "checkpoint")
        self.config: dict[str, Any] = {
            "models": ["tiny"],
            "model_sources": {
                "tiny": {"source": {"kind": "local", "path": str(checkpoint)}, "n_layers": 3, "n_heads": 4}
            },
            "tasks": {"listops": {"options": {"n_train": 8, "n_validation": 4, "n_test": 6}}},
            "methods": {
                "base": None,
                "lofit": {"heads": {"k": [3], "params": TRAINING}, "params": TRAINING},
                "lora": {"params": TRAINING},
                "iti": {"heads": {"k": [2, 3]}},
                "repe": None,
                "fewshot": {"params": {"shots": 2}},
                "full": {"params": TRAINING},
            },
            "transfer": {"k": 3},
            "lr_grid": None,
            "threads": 1,
        }
        self.variables: dict[str, str] = {}
        """Of the environment, besides this process's own."""

    def command(self, *arguments: str, config: dict[str, Any] | None = None) -> list[str]:
        file = self.folder / "config.yaml"
        file.write_text(yaml.safe_dump(config or self.config))
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--snakefile", str(REPOSITORY / "Snakefile")]
        command += ["--directory", str(self.folder), "--configfile", str(file)]
        return [*command, "--workflow-profile", str(REPOSITORY / "workflow" / "profiles" / "default"), *arguments]

    def environment(self) -> dict[str, str]:
        return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | self.variables

    def snakemake(self, *arguments: str, config: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments, config=config)
        env = self.environment()
        return subprocess.run(command, capture_output=True, text=True, env=env, cwd=self.folder, check=False)

    def run(self, config: dict[str, Any] | None = None) -> str:
        result = self.snakemake(config=config)
        assert result.returncode == 0, result.stderr[-4000:]
        return result.stderr

    def planned(self, config: dict[str, Any] | None = None, *outputs: str) -> Counter[str]:
        """Number of jobs per rule that a run would start, for some outputs or for all."""
        result = self.snakemake("--dry-run", *outputs, config=config)
        assert result.returncode == 0, result.stderr[-4000:]
        stats = re.search(r"Job stats:\njob +count\n[- ]+\n(.*?)\ntotal", result.stdout + result.stderr, re.DOTALL)
        lines = [line.split() for line in stats[1].splitlines()] if stats else []
        return Counter({rule: int(count) for rule, count in lines if rule != "all"})

    def table(self) -> RunTable:
        return RunTable(parse_config(self.config))

    def fit(self, method: str) -> FitNode:
        return next(node for node in self.table().fits.values() if node.method == method)

    def path(self, relative: Path) -> Path:
        return self.folder / relative
