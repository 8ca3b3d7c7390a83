"""The device that ``auto`` comes to is that of the machine on which the workflow was started."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lofit.config import parse_config
from lofit.plan.table import RunTable
from tests.workflows import Workflow


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_snakemake_inside_a_job_knows_the_ids_of_the_one_that_submitted_it(device: str, tmp_path: Path) -> None:
    """A job of a cluster starts a Snakemake of its own, on a machine that may have a GPU where the other had none."""
    workflow = Workflow(tmp_path)
    config = workflow.config | {"methods": {"base": None, "lora": None}}
    del config["transfer"]
    done = subprocess.run(
        workflow.command("--dry-run", config=config),
        env=workflow.environment() | {"LOFIT_DEVICE": device},
        capture_output=True,
        text=True,
        check=True,
    )
    made = {name: RunTable(parse_config(config | {"device": name})) for name in ("cpu", "cuda")}
    for name, table in made.items():
        assert all((fit in done.stdout) == (name == device) for fit in table.fits)
