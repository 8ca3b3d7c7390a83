"""Nodes that are forked from a server: the same results, and nothing that outlives those it works for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lofit.cluster import watchdog as abandoned
from lofit.files import read_json
from lofit.models.adapters import checksums
from lofit.node_server import client
from lofit.node_server.server import LIBRARIES, MODEL
from lofit.plan.kinds import FETCH, PREPARE
from lofit.plan.nodes import Node
from lofit.plan.table import RunTable
from tests.fitted import find, run_nodes, tiny_config
from tests.workflows import REPOSITORY, TRAINING

pytestmark = pytest.mark.slow

METHODS: dict[str, Any] = {
    "base": None,
    "lora": {"params": TRAINING},
    "bitfit": {"params": {"epochs": 1_000_000, "lr": 1e-9}},
    "lofit": {"heads": {"k": [3], "params": TRAINING}, "params": TRAINING},
}


class Nodes:
    """Nodes of a configuration whose model and data are there, and a process that stands for their Snakemake."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        from lofit.config import parse_config

        self.table = RunTable(parse_config(tiny_config(folder, METHODS)))
        run_nodes(self.table, FETCH, PREPARE)
        self.snakemake = subprocess.Popen(["sleep", "1000"])

    def environment(self, **changes: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LOFIT_", "OMP_", "MKL_"))}
        named = {"LOFIT_CONFIG": str(self.folder / "config.yaml"), "LOFIT_SNAKEMAKE": str(self.snakemake.pid)}
        servers = {client.VARIABLE: str(self.folder / "servers"), "TMPDIR": str(self.folder)}
        return kept | {"HF_HUB_OFFLINE": "1"} | named | servers | changes

    def start(self, kind: str, method: str, **changes: str) -> subprocess.Popen[str]:
        fit = find(self.table, method)
        node: Node = fit
        if kind == "localize" and fit.ranking:
            node = fit.ranking
        elif kind == "evaluate":
            node = self.table.own_evaluation(fit)
        command = [sys.executable, "-m", "lofit", "node", kind, node.id, "--threads", "1"]
        given: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": REPOSITORY}
        return subprocess.Popen(command, env=self.environment(**changes), **given)

    def run(self, kind: str, method: str, **changes: str) -> tuple[int, str, str]:
        node = self.start(kind, method, **changes)
        out, err = node.communicate(timeout=300)
        return node.returncode, out, err

    def processes(self, name: str) -> list[psutil.Process]:
        """The servers, or the nodes that they were forked into."""
        named = [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"]]
        forks = [process for process in named if str(self.runtime) in " ".join(process.info["cmdline"])]
        return [process for process in forks if process.name() == name]

    @property
    def runtime(self) -> Path:
        return self.folder / f"lofit-nodes-{os.getuid()}"

    def wait_for_sockets(self, count: int) -> None:
        until = time.monotonic() + 30
        while (found := len(list(self.runtime.glob("*.sock")))) != count:
            assert time.monotonic() < until, f"{found} sockets"
            time.sleep(0.05)

    def working(self) -> psutil.Process:
        """The server of the model, once a child of it is at work."""
        while not (found := [server for server in self.processes(MODEL) if server.children()]):
            time.sleep(0.05)
        return found[0]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    made = Nodes(tmp_path_factory.mktemp("nodes"))
    yield made
    made.snakemake.kill()
    made.snakemake.wait()


def test_a_forked_node_writes_the_same_bytes(nodes: Nodes) -> None:
    written = []
    for server in ("", str(nodes.folder / "servers")):
        for kind, method in (("localize", "lofit"), ("fit", "lofit"), ("fit", "lora"), ("evaluate", "lora")):
            status, out, err = nodes.run(kind, method, **{client.VARIABLE: server})
            assert (status, "node server" in err) == (0, False), err
            assert "/seed42/" in out
        fits = [find(nodes.table, method) for method in ("lofit", "lora")]
        scores = nodes.table.folder(nodes.table.own_evaluation(fits[1]))
        found = [checksums(nodes.table.folder(fit) / "adapter") for fit in fits]
        written.append([*found, (scores / "samples.jsonl").read_bytes(), read_json(scores / "results.json")["metrics"]])
    assert written[0] == written[1]
    starts = {read_json(nodes.table.folder(fit) / "fit.json")["start_seconds"] for fit in fits}
    assert len(starts) == 2, "each its own"
    assert len(nodes.processes(MODEL)) == len(nodes.processes(LIBRARIES)) == 1, "one for all nodes of the model"


def test_an_error_of_the_user_is_the_same_line_and_status(nodes: Nodes) -> None:
    for server in ("", str(nodes.folder / "servers")):
        command = [sys.executable, "-m", "lofit", "node", "fit", "tiny/nothing"]
        env = nodes.environment(**{client.VARIABLE: server})
        done = subprocess.run(command, env=env, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("error: no node 'tiny/nothing' in this configuration")


def test_a_killed_client_takes_its_node_along(nodes: Nodes) -> None:
    node = nodes.start("fit", "bitfit")
    server = nodes.working()
    [child] = server.children()
    node.kill()
    node.communicate()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert server.is_running()


def test_a_node_that_dies_ends_its_client(nodes: Nodes) -> None:
    node = nodes.start("fit", "bitfit")
    [child] = nodes.working().children()
    child.send_signal(signal.SIGKILL)
    node.communicate(timeout=60)
    assert node.returncode == 128 + signal.SIGKILL


def test_a_killed_server_takes_its_nodes_along_and_the_next_node_starts_another(nodes: Nodes) -> None:
    node = nodes.start("fit", "bitfit")
    server = nodes.working()
    [child] = server.children()
    server.kill()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()
    assert any("node server: not used (the other end is gone)" in line for line in node.stderr or [])
    nodes.wait_for_sockets(1)  # that of the killed server is gone, although no other was started
    node.kill()  # which has gone on in a process of its own
    node.communicate()
    status, _, err = nodes.run("evaluate", "lora")
    assert (status, "node server" in err) == (0, False)
    assert len(nodes.processes(MODEL)) == len(nodes.processes(LIBRARIES)) == 1
    assert len(list(nodes.runtime.glob("*.sock"))) == 2, "that of the killed server is gone"


def test_a_server_that_is_killed_while_idle_leaves_no_socket(nodes: Nodes) -> None:
    [idle] = nodes.processes(MODEL)
    idle.kill()
    nodes.wait_for_sockets(1)
    assert nodes.run("evaluate", "lora")[0] == 0
    nodes.wait_for_sockets(2)


def test_other_code_or_another_environment_is_another_server(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    env = nodes.environment()
    names = {client.name_of("tiny", env), client.name_of("other", env), client.name_of("tiny", env | {"HF_HOME": "x"})}
    monkeypatch.setattr(client, "__file__", str(nodes.folder / "servers" / "client.py"))
    assert len(names | {client.name_of("tiny", env)}) == 4
    assert client.name_of("tiny", env | {"LANG": "C"}) in names | {client.name_of("tiny", env)}


def test_a_folder_that_others_may_enter_is_not_used(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / f"lofit-nodes-{os.getuid()}").mkdir(mode=0o755)
    (tmp_path / f"lofit-nodes-{os.getuid()}").chmod(0o755)
    status, _, err = nodes.run("evaluate", "lora", TMPDIR=str(tmp_path))
    assert status == 0
    assert "node server: not used" in err and "is not a folder of this user alone" in err


def test_a_folder_that_hands_its_group_on_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As group folders of clusters do: what is made in them has the bit, too."""
    tmp_path.chmod(0o2700)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert client.runtime_folder().stat().st_mode & 0o7777 == 0o2700


def test_a_stranger_on_the_socket_is_turned_away(nodes: Nodes) -> None:
    for address in nodes.runtime.glob("*.sock"):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(address))
            stranger.sendall(client.LENGTH.pack(3) + b"abc")
            assert stranger.recv(1) == b""
    assert nodes.run("evaluate", "lora")[0] == 0


def test_the_server_ends_with_its_snakemake(nodes: Nodes) -> None:
    node = nodes.start("fit", "bitfit")
    model = nodes.working()
    [libraries] = nodes.processes(LIBRARIES)
    family = [libraries, model, *model.children()]
    model.suspend()  # so that it cannot end by itself, and remove its socket
    nodes.snakemake.kill()
    nodes.snakemake.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    _, err = node.communicate(timeout=60)
    assert node.returncode == 1
    assert abandoned.MESSAGE in err
    assert not alive
    assert list(nodes.runtime.iterdir()) == []
