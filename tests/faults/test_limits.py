"""Time, memory of the host and memory of the GPU: what takes more than its limit is a failed run, alone."""

from __future__ import annotations

import copy
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch

from lofit.config import LimitsConfig, parse_config
from lofit.errors import ConfigError, FitError, LofitError
from lofit.files import read_json
from lofit.nodes import evaluate as evaluate_node
from lofit.nodes import fit as fit_node
from lofit.nodes.limits import limited
from lofit.nodes.status import record_failure
from lofit.plan.table import ALL, MAIN, RunTable
from lofit.report.main import comparison
from lofit.report.parts import collect_results
from tests.cuda import Gpus
from tests.fitted import find, fitted_table, tiny_config
from tests.workflows import Workflow

CPU = "cpu"
SECOND = 1 / 60


def test_a_node_that_takes_too_long_is_stopped_and_says_which_limit() -> None:
    start = time.perf_counter()
    with record_failure() as report, limited(LimitsConfig(minutes=0.2 * SECOND), CPU):
        while time.perf_counter() - start < 20:
            torch.ones(10).sum()
    assert time.perf_counter() - start < 10
    assert report["status"] == "failed"
    assert report["reason"].startswith(f"took longer than limits.minutes: {0.2 * SECOND:g}; raise it")


def test_nothing_is_left_behind_by_a_limit_that_was_kept_or_not() -> None:
    handler, memory = signal.getsignal(signal.SIGALRM), resource.getrlimit(resource.RLIMIT_DATA)
    for minutes in (10.0, 0.01 * SECOND):
        with record_failure() as report, limited(LimitsConfig(minutes=minutes, memory_gb=100), CPU):
            assert signal.getsignal(signal.SIGALRM) is not handler
            time.sleep(0.2)
        assert (report["status"] == "ok") == (minutes == 10.0)
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        assert signal.getsignal(signal.SIGALRM) is handler
        assert resource.getrlimit(resource.RLIMIT_DATA) == memory


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_that_a_destructor_swallowed_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lofit.nodes.limits.AGAIN", 0.2)

    swallowed = []

    class Slow:
        def __del__(self) -> None:
            try:
                time.sleep(2)
            except FitError as error:
                swallowed.append(error)
                raise

    with record_failure() as report, limited(LimitsConfig(minutes=0.1 * SECOND), CPU):
        slow = Slow()
        del slow
        time.sleep(10)
    assert len(swallowed) == 1
    assert report["status"] == "failed"


def test_processes_that_a_node_starts_outlive_its_limit() -> None:
    with record_failure() as report, limited(LimitsConfig(minutes=0.3 * SECOND), CPU):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.5)"])
        time.sleep(10)
    assert report["status"] == "failed"
    assert child.wait(30) == 0


@pytest.mark.parametrize("what", ["torch", "bytes"])
def test_memory_beyond_the_limit_is_a_failed_node(what: str) -> None:
    used = sum(m.private_dirty for m in psutil.Process().memory_maps()) / 1e9
    with record_failure() as report, limited(LimitsConfig(memory_gb=used + 4), CPU):
        if what == "torch":
            torch.ones(10**9 * 20 // 4)
        else:
            bytearray(20 * 10**9)
    assert report["status"] == "failed"
    assert re.match(r"out of memory \(.*\); more than limits.memory_gb: [\d.]+, raise it or lower", report["reason"])
    with record_failure() as report, limited(LimitsConfig(memory_gb=used + 4), CPU):
        torch.ones(1000)
    assert report["status"] == "ok"


def test_a_lower_limit_of_the_system_stays() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (50 * 10**9, before[1]))
    try:
        with limited(LimitsConfig(memory_gb=1000), CPU):
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 50 * 10**9
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def test_the_share_of_every_gpu_is_limited_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(totals=[80e9, 40e9], free=[60e9, 20e9], reserved=[19e9, 19e9])
    gpus.show(monkeypatch)
    with record_failure() as report, limited(LimitsConfig(memory_gb=20), "cuda"):
        assert gpus.shares == [(0, 0.25), (1, 0.5)]
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")
    assert gpus.shares[2:] == [(0, 1.0), (1, 1.0)]
    assert report["reason"].startswith("out of memory (CUDA out of memory. Tried to allocate 2.00 GiB); more than ")


def test_a_limit_on_a_gpu_that_others_use_too_is_the_limit_until_they_fill_it(monkeypatch: pytest.MonkeyPatch) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    with monkeypatch.context() as patched:
        Gpus(totals=[80e9], free=[20e9], reserved=[19e9]).show(patched)
        with record_failure() as report, limited(LimitsConfig(memory_gb=20), "cuda"):
            raise error
        assert "more than limits.memory_gb: 20" in report["reason"]
    Gpus(totals=[80e9], free=[0.1e9], reserved=[10e9]).show(monkeypatch)
    with (
        pytest.raises(LofitError, match=r"while other processes hold 68\.4 GB of the GPU; run it again"),
        record_failure(),
        limited(LimitsConfig(memory_gb=20), "cuda"),
    ):
        raise error


def test_a_failed_fit_is_no_want_of_memory_of_its_evaluation() -> None:
    with record_failure() as report, limited(LimitsConfig(memory_gb=100), CPU):
        raise FitError("out of memory (DefaultCPUAllocator: can't allocate memory)")
    assert report["reason"] == "out of memory (DefaultCPUAllocator: can't allocate memory)"


@pytest.mark.parametrize("value", [0, -1, float("inf"), "long"])
def test_limits_are_positive_numbers(tmp_path: Path, value: object) -> None:
    with pytest.raises(ConfigError, match=r"limits\.minutes: "):
        parse_config(tiny_config(tmp_path, {"base": None}, limits={"minutes": value}))


def test_limits_are_part_of_no_identity(tmp_path: Path) -> None:
    plain = RunTable(parse_config(tiny_config(tmp_path, {"base": None, "iti": {"heads": {"k": [2]}}})))
    limits = {"minutes": 30, "memory_gb": 8}
    bound = RunTable(parse_config(tiny_config(tmp_path, {"base": None, "iti": {"heads": {"k": [2]}}}, limits=limits)))
    assert list(bound.evaluations) == list(plain.evaluations)
    assert list(bound.activations) == list(plain.activations)


@pytest.mark.parametrize("where", ["fit", "evaluate"])
def test_out_of_memory_on_a_gpu_is_a_row(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(tmp_path, {"base": None, "lora": {"params": {"epochs": 1, "lr": 0.01}}})

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 79 GiB")

    made = fitted_table(config)
    if where == "fit":
        with monkeypatch.context() as patched:
            patched.setattr(torch.optim.AdamW, "step", full)
            fit_node.run(made, find(made, "lora"))
        adapter = made.folder(find(made, "lora")) / "adapter"
        assert list(adapter.iterdir()) == []
    for node in made.evaluations.values():
        with monkeypatch.context() as patched:
            if where == "evaluate" and node.fit.method == "lora":
                patched.setattr("lofit.nodes.evaluate.evaluate", full)
            evaluate_node.run(made, node)
    for part in (ALL, MAIN):
        collect_results(made, part)
    results = pd.read_parquet(tmp_path / "results" / "results.parquet").set_index("method")["status"].to_dict()
    assert results == {
        "base": "ok",
        "lora": "failed: out of memory (CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 79 GiB)",
    }
    assert comparison(made, "paper").set_index("method")["listops"]["lora"] == "failed"


@pytest.mark.slow
def test_one_method_over_its_minutes_and_everything_else_goes_on(tmp_path: Path) -> None:
    made = Workflow(tmp_path)
    config = copy.deepcopy(made.config) | {"limits": {"minutes": 0.8}}
    config["methods"] = {
        "base": None,
        "bitfit": {"params": {"epochs": 1_000_000, "lr": 1e-9}},
        "lofit": config["methods"]["lofit"],
    }
    made.run(config)
    results = pd.read_parquet(tmp_path / "results" / "results.parquet").set_index("method")
    reason = "took longer than limits.minutes: 0.8"
    assert results["status"].to_dict() == {
        "base": "ok",
        "bitfit": f"failed: {reason}; raise it, or give the run less to do",
        "lofit": "ok",
    }
    made.config = config
    run = made.path(made.table().folder(made.fit("bitfit")))
    assert read_json(run / "fit.json")["reason"].startswith(reason)
    folder = tmp_path / "results"
    table = (folder / "tables" / "main.md").read_text()
    assert re.search(r"bitfit +\| +failed", table)
    assert reason in table
    assert (folder / "figures" / "transfer.png").is_file()
    page = (folder / "report.html").read_text()
    assert reason in page
    assert "Nothing to be done" in made.run(config)
