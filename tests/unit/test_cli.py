"""The command line: quick help, one-line errors, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def lofit(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "lofit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, check=False)


def test_help_names_every_verb() -> None:
    result = lofit("--help")
    assert result.returncode == 0
    for verb in ("plan", "train", "summary", "render", "compare", "export", "mark-failed", "store", "slurm"):
        assert verb in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--configfile", "absent.yaml"], "error: absent.yaml: cannot be read"),
        (["node", "fit", "a/b", "--configfile", "config.yaml"], "error: no node 'a/b' in this configuration"),
        (["node", "fits", "a/b"], "error: unknown kind of node 'fits'; did you mean 'fit'?"),
        (["render", "pie"], "error: unknown table or figure 'pie'; choose from: "),
    ],
)
def test_a_mistake_is_one_line_and_a_failing_exit(arguments: list[str], message: str) -> None:
    result = lofit(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(message)
    assert len(result.stderr.splitlines()) == 1


def test_planning_imports_nothing_heavy() -> None:
    script = (
        "import sys; from pathlib import Path; from lofit.config import load_config; "
        "from lofit.plan.kinds import counts; from lofit.plan.table import RunTable; "
        "import lofit.cli; counts(RunTable(load_config(Path('config.yaml')))); "
        "print([m for m in ('torch', 'transformers', 'peft', 'datasets', 'pandas', 'lm_eval') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert result.stdout.strip() == "[]"
