"""`lofit train` on the worked example, without the workflow."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from lofit.node_server.client import OWNER, VARIABLE
from lofit.node_server.server import MODEL
from tests.checkpoint import save_checkpoint

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "opposites"


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lofit", "train", "--out", str(folder / "out"), "--threads", "1", *arguments]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, check=False)


def test_the_worked_example(tmp_path: Path) -> None:
    model = save_checkpoint(tmp_path / "tiny")
    done = train(
        tmp_path, "--task-dir", str(EXAMPLE), "--model", str(model), "--method", "lofit", "--method", "iti", "--k", "3"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = pd.read_parquet(tmp_path / "out" / "results.parquet").set_index("method")
    assert sorted(results.index) == ["base", "iti", "lofit"]
    assert (results["status"] == "ok").all()
    assert (results["n_items"] == 30).all()
    assert results["n_heads"]["lofit"] == 3
    assert "lofit (3 heads)" in done.stdout
    assert "out/tables/suite.md" in done.stdout
    assert len(list((tmp_path / "out" / "runs").glob("tiny/opposites/**/adapter_model.safetensors"))) == 2
    again = ["--task-dir", str(EXAMPLE), "--model", str(model), "--method", "lofit", "--k", "3", "--out", "again"]
    done = train(tmp_path, *again, "--reuse", "out")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("taken from the store out, not computed") == 4  # a ranking, a fit, and two scores
    csv = [pd.read_csv(tmp_path / out / "results.csv", index_col="method").loc["lofit"] for out in ("out", "again")]
    pd.testing.assert_series_equal(*csv)


def test_a_csv_file_and_what_goes_on_from_its_results(tmp_path: Path) -> None:
    moods = {"grand": "positive", "dull": "negative"}
    rows = [{"text": f"It was {word} {i}.", "mood": mood} for i in range(12) for word, mood in moods.items()]
    pd.DataFrame(rows).to_csv(tmp_path / "reviews.csv", index=False)
    columns = ["--data", "reviews.csv", "--prompt", "Review: {text}\nMood:", "--label", "mood"]
    (save_checkpoint(tmp_path / "tiny") / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    )
    model = ["--model", str(tmp_path / "tiny"), "--chat", "--system", "Be brief."]
    done = train(tmp_path, *columns, *model, "--method", "lora", "--seed", "1", "--seed", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    results = pd.read_parquet(tmp_path / "out" / "results.parquet")
    assert (results["status"] == "ok").all()
    assert sorted(results["seed"][results["method"] == "lora"].unique()) == [1, 2]
    assert set(results["n_items"]) == {5} and set(results["metric"]) >= {"acc"}
    assert set(results["protocol"]) == {"paper-chat"}
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "runs").rglob("*") if file.is_file()}
    more = train(tmp_path, *columns, *model, "--method", "lora", "--method", "bitfit", "--seed", "1", "--seed", "2")
    assert more.returncode == 0, more.stderr[-3000:]
    assert all(file.stat().st_mtime_ns == time for file, time in written.items()), "what is done is not run again"
    assert len(list((tmp_path / "out").glob("runs/tiny/reviews/*/seed*/bitfit-*"))) == 2
    sample = json.loads(next((tmp_path / "out").glob("runs/**/samples.jsonl")).read_text().splitlines()[0])
    assert sample["arguments"][0][0].startswith("Be brief.\nReview: It was ")
    [config] = re.findall(r"copy (\S+) to config.yaml", done.stdout)
    run = next((tmp_path / "out" / "runs").glob("tiny/reviews/*/seed1/lora-*")).name
    for command in (["summary"], ["plan"], ["export", "--run", run, "--out", "exported", "--format", "peft"]):
        again = [sys.executable, "-m", "lofit", *command, "--configfile", config]
        env = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
        subprocess.run(again, check=True, cwd=tmp_path, env=env, capture_output=True)
    assert (tmp_path / "exported" / "adapter_model.safetensors").is_file()


def test_a_killed_training_leaves_no_process_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lofit", "train", "--task-dir", str(EXAMPLE), "--method", "lora", "--threads", "1"]
    command += ["--model", str(save_checkpoint(tmp_path / "tiny")), "--out", str(tmp_path / "out")]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", OWNER: "", VARIABLE: ""}

    def at_work() -> list[psutil.Process]:
        """Itself, its nodes, and the servers of them."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                found += [process] if process.cwd() == str(tmp_path) else []
        return found

    with (tmp_path / "log").open("w") as log:
        training = psutil.Popen(command, env=env, cwd=tmp_path, stdout=log, stderr=log)
    while not any(process.name() == MODEL for process in at_work()):
        assert training.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    training.kill()
    training.wait()
    _, alive = psutil.wait_procs(at_work(), timeout=60)
    assert not alive


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task-dir", "nowhere", "--method", "lofit"], "nowhere: cannot be read"),
        (["--task-dir", str(EXAMPLE), "--method", "lofti"], "unknown method 'lofti'; did you mean 'lofit'?"),
        (["--task-dir", str(EXAMPLE), "--method", "lora", "--model", "smolm"], "unknown model 'smolm'"),
        (["--task-dir", str(EXAMPLE), "--method", "lora", "--model", "."], "config.json cannot be read"),
        (["--task-dir", str(EXAMPLE), "--method", "lofit", "--k", "999"], "999 is more than the 270 heads"),
        (["--task-dir", "t\udcff", "--method", "lora"], "t\\udcff: a name that is not UTF-8; rename the folder"),
        (["--task-dir", str(EXAMPLE), "--method", "lora", "--out", "o\udcff"], "o\\udcff: a name that is not UTF-8"),
    ],
)
def test_what_cannot_be_run_is_one_line_and_leaves_nothing(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = train(tmp_path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
