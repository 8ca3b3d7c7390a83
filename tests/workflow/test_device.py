"""The device that ``auto`` comes to is that of the machine on which the workflow was started."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from lofit.config import parse_config
from lofit.plan.table import RunTable
from tests.workflows import Workflow


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_snakemake_inside_a_job_knows_the_ids_of_the_one_that_submitted_it(device: str, tmp_path: Path) -> None:
    """A job of a cluster starts a Snakemake of its own, on a machine that may have a GPU where the other had none."""
    workflow = Workflow(tmp_path)
    config = workflow.config | {"methods": {"base": None, "lora": None}}
    del config["transfer"]
    table = RunTable(parse_config(config | {"device": device}))
    [lora] = (fit for fit in table.fits.values() if fit.method == "lora")
    target = f"fit:{','.join(f'{name}={value}' for name, value in lora.wildcards.items())}"
    submitted = {**table.config.model_dump(mode="json"), "results": "results"}
    (tmp_path / "submitted.yaml").write_text(yaml.safe_dump(submitted))
    done = subprocess.run(
        # the file has changed since: it has no such fit any more
        workflow.command("--dry-run", "--target-jobs", target, config=config | {"methods": {"base": None}}),
        env=workflow.environment() | {"LOFIT_CONFIG": "submitted.yaml"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert lora.id in done.stdout
