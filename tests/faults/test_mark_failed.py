"""Nodes that are killed from outside: the workflow says which, and goes on without them once they are marked."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from lofit.cluster.watchdog import INTERRUPTED
from lofit.config import parse_config
from lofit.errors import ConfigError, LofitError
from lofit.files import only_writer, read_json, write_text
from lofit.nodes import mark_failed as marking
from lofit.plan.kinds import kind_of
from lofit.plan.table import RunTable
from lofit.rankings.ranking import read_ranking
from tests.fitted import find, fitted_table, tiny_config
from tests.workflows import REPOSITORY, TRAINING, Workflow

pytestmark = pytest.mark.slow

KILLER = """
import os, signal, sys
command = " ".join(sys.orig_argv)
for part in os.environ.get("KILLED", "").split(";"):
    if part and f"-m lofit {part}" in command:
        if os.environ.get("KILL_DRIVER"):
            import psutil
            for parent in psutil.Process().parents():
                if "snakemake" in parent.cmdline()[1:3]:
                    parent.kill()
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workflow:
    """Four methods, and a ``sitecustomize`` that kills the nodes named in ``KILLED`` as soon as they start."""
    (tmp_path / "injected").mkdir()
    (tmp_path / "injected" / "sitecustomize.py").write_text(KILLER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "injected"), str(REPOSITORY)]))
    found = Workflow(tmp_path)
    found.config = copy.deepcopy(found.config)
    found.config["methods"] = {name: found.config["methods"][name] for name in ("base", "lofit", "lora", "repe")}
    found.config["methods"]["bitfit"] = {"params": TRAINING}
    del found.config["transfer"]
    return found


def mark_failed(made: Workflow, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lofit", "mark-failed", "--configfile", "config.yaml", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=made.folder, check=False)


def test_killed_nodes_of_every_kind_are_marked(made: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    table = made.table()
    lora, bitfit, lofit = (made.fit(name) for name in ("lora", "bitfit", "lofit"))
    assert lofit.ranking
    killed = [
        *table.activations,
        lofit.ranking.id,
        lora.id,
        table.own_evaluation(bitfit).id,
    ]
    monkeypatch.setenv("KILLED", f"node capture;node localize;node fit {lora.id};node evaluate {bitfit.id}")
    first = made.snakemake()
    assert first.returncode != 0
    for name in killed:
        assert name in first.stdout + first.stderr
    assert not (made.folder / "results" / "results.parquet").exists()
    kept = {path: path.stat().st_mtime_ns for path in (made.folder / "results" / "runs").rglob("*") if path.is_file()}
    assert mark_failed(made).returncode == 2
    result = mark_failed(made, "--all")
    assert result.returncode == 0, result.stderr
    assert re.findall(r"failed from now on: (.*)", result.stdout) == killed
    assert mark_failed(made, "--all").stdout == "nothing to mark\n"
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())

    made.run()
    results = pd.read_parquet(made.folder / "results" / "results.parquet").set_index("method")
    status = results["status"].to_dict()
    assert status["base"] == "ok"
    assert status["lora"] == (
        f"failed: no result: killed, or ended by an error (its log: results/logs/fit/{lora.id}.log)"
    )
    assert status["repe"].startswith("failed: no result: killed, or ended by an error (its log: results/logs/captur")
    assert status["lofit"].startswith("failed: no result: killed, or ended by an error (its log: results/logs/locali")
    assert status["bitfit"].startswith("failed: no result: killed, or ended by an error (its log: results/logs/evalu")
    table_text = (made.folder / "results" / "tables" / "main.md").read_text()
    assert re.search(r"lora +\| +failed", table_text)
    assert f"results/logs/fit/{lora.id}.log" in (made.folder / "results" / "report.html").read_text()
    assert read_ranking(made.path(table.folder(lofit.ranking)) / "heads.parquet").empty
    assert made.planned() == Counter()
    made.path(table.folder(lora)).joinpath("fit.json").unlink()
    made.path(table.folder(table.own_evaluation(bitfit))).joinpath("results.json").unlink()
    planned = made.planned()
    assert (planned["fit"], planned["evaluate"], planned["collect"]) == (1, 2, 1)


def test_a_node_killed_together_with_the_workflow(made: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    made.config["methods"] = {"base": None, "bitfit": {"params": TRAINING}}
    bitfit = made.fit("bitfit")
    made.run(made.config | {"methods": {"base": None}})
    monkeypatch.setenv("KILLED", "node fit")
    monkeypatch.setenv("KILL_DRIVER", "yes")
    assert made.snakemake().returncode == -9
    result = mark_failed(made, "--run", bitfit.id)
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert "lofit run CONFIG -- --unlock" in result.stderr
    assert not (made.path(made.table().folder(bitfit)) / "fit.json").exists()
    assert made.snakemake("--unlock").returncode == 0
    result = mark_failed(made, "--run", bitfit.id)
    assert result.returncode == 0, result.stderr
    made.run()
    assert read_json(made.path(made.table().folder(bitfit)) / "fit.json")["status"] == "failed"
    assert "Nothing to be done" in made.run()


def test_what_has_a_result_or_could_not_have_run_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, {"base": None, "lora": {"params": TRAINING}})
    monkeypatch.chdir(tmp_path)
    table = RunTable(parse_config(config))
    lora, base = (find(table, name) for name in ("lora", "base"))
    with pytest.raises(LofitError, match=r"source\.json is not there yet, so it could not have run"):
        list(marking.mark_failed(table, [lora.id]))
    assert list(marking.mark_failed(table, None)) == []
    made = fitted_table(config)
    report = table.folder(lora) / "fit.json"
    scored = table.own_evaluation(base)
    log = kind_of(scored).log(made, scored.id)
    write_text(log, "at work\n")
    with only_writer(made.folder(scored)):
        assert list(marking.mark_failed(table, None)) == []
        with pytest.raises(LofitError, match="is still being computed"):
            list(marking.mark_failed(table, [scored.id]))
    write_text(log, f"error: {INTERRUPTED}\n")
    assert list(marking.mark_failed(table, None)) == []
    before = report.read_bytes()
    with pytest.raises(ConfigError, match=r"fit\.json; delete that file to have it computed again"):
        list(marking.mark_failed(table, [table.own_evaluation(base).id, lora.id]))
    with pytest.raises(ConfigError, match="no node 'tinny' in this configuration"):
        list(marking.mark_failed(table, ["tinny"]))
    with pytest.raises(ConfigError, match=r"'tiny' is part of \d+ ids"):
        list(marking.mark_failed(table, ["tiny"]))
    assert list(marking.mark_failed(table, None)) == [], "what was never started is not marked unless it is named"
    assert report.read_bytes() == before
    assert list(marking.mark_failed(table, [table.own_evaluation(base).id])) == [table.own_evaluation(base).id]
    marked = read_json(table.folder(table.own_evaluation(base)) / "results.json")
    assert (marked["status"], marked["metrics"]) == ("failed", {})
