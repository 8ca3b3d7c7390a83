"""The hub client against a loopback stand-in of the hub, in processes of their own (it reads HF_ENDPOINT on import)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[3]
TOKEN = "hf_" + "S3cret" * 6
MODEL_SHA, DATA_SHA = "a1" * 20, "b2" * 20
CARD = b"""---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train.jsonl
  - split: test
    path: main/test.jsonl
---
"""
RUN = """
import json, sys
from pathlib import Path
from lofit.errors import SourceError
from lofit.sources.fetcher import Fetcher
from lofit.sources.models import fetch_model
from lofit.sources.source import HubDataset, HubModel
answers = []
for case in json.loads(sys.argv[1]):
    work = Path(case.pop("work"))
    try:
        if "config" in case:
            fetcher = Fetcher(work / "cache", None)
            answers.append({"rows": fetcher.hub_rows(HubDataset(**case)), "provenance": fetcher.provenance})
        else:
            fetch_model("tiny", HubModel(**case), work / "model", cache=work / "cache")
            answers.append({"files": sorted(path.name for path in (work / "model").iterdir())})
    except SourceError as error:
        answers.append({"error": str(error)})
print("ANSWERS" + json.dumps(answers))
"""


class Hub:
    """Repositories as ``files[(kind, repo)] = {path: bytes}`` with one commit each, known as ``main`` too."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.commits: dict[tuple[str, str], str] = {}
        self.gated: set[str] = set()
        self.downloads: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                self._answer(*outer.answer(self.command, unquote(urlsplit(self.path).path), b""))

            do_HEAD = do_GET

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(*outer.answer("POST", unquote(urlsplit(self.path).path), body))

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def add(self, kind: str, repo: str, commit: str, files: dict[str, bytes]) -> None:
        self.files[kind, repo], self.commits[kind, repo] = files, commit

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        parts = path.strip("/").split("/")
        api = parts[0] == "api"
        if path == "/api/validate-yaml":  # of a model card
            return 200, {"Content-Type": "application/json"}, b'{"errors": [], "warnings": []}'
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            if repo in self.gated:
                return 403, {"X-Error-Message": "you may not write here"}, b""
            self.add("models", repo, MODEL_SHA, {})
            return 200, {"Content-Type": "application/json"}, json.dumps({"url": f"{self.url}/{repo}"}).encode()
        kind = "datasets" if "datasets" in parts[:2] else "models"
        parts = parts[2:] if api else parts[1 if kind == "datasets" else 0 :]
        repo, verb, rest = "/".join(parts[:2]), parts[2] if len(parts) > 2 else "revision", parts[3:] or ["main"]
        files = self.files.get((kind, repo))
        if files is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        commit = self.commits[kind, repo]
        if rest[0] not in (commit, "main"):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        name = "/".join(rest[1:])
        if verb == "resolve":
            return self._file(method, repo, commit, name, files)
        reply: Any = {"id": repo, "sha": commit, "siblings": [{"rfilename": file} for file in files]}
        if verb == "preupload":
            wanted = [file["path"] for file in json.loads(body)["files"]]
            reply = {"files": [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in wanted]}
        elif verb == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            reply = {"commitUrl": f"{self.url}/{repo}/commit/{commit}", "commitOid": commit}
        elif verb == "tree":
            reply = [self._entry(file, files[file]) for file in files if file.startswith(name)]
        elif verb == "paths-info":
            wanted = json.loads(body)["paths"]
            reply = [self._entry(file, files[file]) for file in files if file in wanted]
        return 200, {"Content-Type": "application/json"}, json.dumps(reply).encode()

    def _file(
        self, method: str, repo: str, commit: str, name: str, files: dict[str, bytes]
    ) -> tuple[int, dict[str, str], bytes]:
        if repo in self.gated:
            return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}, b""
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        if method == "GET":
            self.downloads.append(name)
        etag = hashlib.sha1(files[name]).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}, files[name]

    @staticmethod
    def _entry(name: str, body: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}


@pytest.fixture(scope="module")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    from tests.tiny import tiny_model

    folder = tmp_path_factory.mktemp("llama")
    tiny_model("llama").save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    unwanted = ("pytorch_model.bin", "consolidated.safetensors", "onnx/model.safetensors", "code.py", "README.md")
    return {**files, "tokenizer_config.json": b"{}", **dict.fromkeys(unwanted, b"unwanted")}


@pytest.fixture
def hub(model_files: dict[str, bytes]) -> Iterator[Hub]:
    hub = Hub()
    hub.add("models", "owner/tiny", MODEL_SHA, model_files)
    rows = {"main/train.jsonl": b'{"q": "a", "n": [1, 2]}\n', "main/test.jsonl": b'{"q": "c", "n": [3]}\n' * 3}
    hub.add("datasets", "owner/data", DATA_SHA, {"README.md": CARD, **rows})
    yield hub
    hub.close()


Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def ask(hub: Hub, tmp_path: Path) -> Ask:
    """Run cases in a fresh process; each case is the fields of a HubModel or a HubDataset."""

    def ask(*cases: dict[str, Any], **environment: str) -> list[dict[str, Any]]:
        full = [{"work": str(tmp_path / "work"), "revision": "main", **case} for case in cases]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        fixed = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", RUN, json.dumps(full)],
            env={**inherited, **fixed, "HF_TOKEN": TOKEN, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        answers = json.loads(done.stdout.split("ANSWERS")[1])
        assert all("\n" not in answer.get("error", "") for answer in answers)
        return answers

    return ask


def test_model_then_offline_then_unknown_offline(hub: Hub, ask: Ask, tmp_path: Path, model_files: Any) -> None:
    model = {"repo": "owner/tiny"}
    (answer,) = ask(model)
    wanted = ["config.json", "generation_config.json", "model.safetensors", "source.json", "tokenizer_config.json"]
    assert answer == {"files": wanted}
    assert not {"pytorch_model.bin", "consolidated.safetensors", "onnx/model.safetensors"} & set(hub.downloads)
    folder = tmp_path / "work" / "model"
    assert (folder / "model.safetensors").read_bytes() == model_files["model.safetensors"]
    record = json.loads((folder / "source.json").read_text())
    assert record["commit"] == MODEL_SHA
    assert record["source"]["revision"] == "main"

    hub.downloads.clear()
    known, unknown = ask(model, {"repo": "owner/other"}, HF_HUB_OFFLINE="1")
    assert known == {"files": wanted}
    assert hub.downloads == []
    assert "model owner/other at main is not in the local cache and HF_HUB_OFFLINE is set" in unknown["error"]


def test_each_fault_of_a_model_has_its_line(hub: Hub, ask: Ask, model_files: dict[str, bytes]) -> None:
    hub.add("models", "owner/gated", MODEL_SHA, model_files)
    hub.gated.add("owner/gated")
    pickle = {name: body for name, body in model_files.items() if name != "model.safetensors"}
    hub.add("models", "owner/pickle", MODEL_SHA, pickle)
    gated, missing, revision, unsafe = ask(
        {"repo": "owner/gated"},
        {"repo": "owner/none"},
        {"repo": "owner/tiny", "revision": "v9"},
        {"repo": "owner/pickle"},
    )
    assert f"model owner/gated is gated: accept its licence at {hub.url}/owner/gated and set HF_TOKEN" in gated["error"]
    assert "model owner/none was not found" in missing["error"]
    assert "model owner/tiny has no revision 'v9'" in revision["error"]
    assert "model owner/pickle has no safetensors weights" in unsafe["error"]


def unreachable(hub: Hub, answer: dict[str, Any]) -> bool:
    return f"{hub.url} cannot be reached" in answer["error"] and "connect to the network" in answer["error"]


def test_model_when_the_hub_cannot_be_reached(hub: Hub, ask: Ask) -> None:
    hub.close()
    (answer,) = ask({"repo": "owner/tiny"})
    assert unreachable(hub, answer)


@pytest.mark.slow  # the hub client waits between its own attempts
def test_dataset_when_the_hub_cannot_be_reached(hub: Hub, ask: Ask) -> None:
    hub.close()
    (answer,) = ask({"repo": "owner/data", "config": "main", "split": "test"})
    assert unreachable(hub, answer)


def test_custom_code_is_fetched_only_on_request(ask: Ask) -> None:
    (answer,) = ask({"repo": "owner/tiny", "trust_remote_code": True})
    assert "code.py" in answer["files"]


def test_dataset_rows_and_faults(hub: Hub, ask: Ask) -> None:
    rows = {"repo": "owner/data", "config": "main", "split": "test"}
    hub.add("datasets", "owner/gated", DATA_SHA, hub.files["datasets", "owner/data"])
    hub.gated.add("owner/gated")
    test, split, config, missing, revision, gated = ask(
        rows,
        {**rows, "split": "dev"},
        {**rows, "config": "other"},
        {**rows, "repo": "owner/none"},
        {**rows, "revision": "v9"},
        {**rows, "repo": "owner/gated"},
    )
    assert test["rows"] == [{"q": "c", "n": [3]}] * 3
    facts = {"config": "main", "split": "test", "revision": DATA_SHA}
    assert test["provenance"] == [{"kind": "hub_dataset", "origin": "owner/data", **facts, "via": "network"}]
    assert "has no split 'dev'; it has train, test" in split["error"]
    assert "'other'" in config["error"]
    assert "dataset owner/none was not found" in missing["error"]
    assert "dataset owner/data has no revision 'v9'" in revision["error"]
    assert f"accept its licence at {hub.url}/datasets/owner/gated and set HF_TOKEN" in gated["error"]


def test_offline_dataset_is_never_of_another_revision(hub: Hub, ask: Ask) -> None:
    rows = {"repo": "owner/data", "config": "main", "split": "test"}
    ask({**rows, "revision": DATA_SHA})
    same, other = ask({**rows, "revision": DATA_SHA}, {**rows, "revision": "c3" * 20}, HF_HUB_OFFLINE="1")
    assert len(same["rows"]) == 3
    assert same["provenance"][0]["revision"] == DATA_SHA
    assert f"dataset owner/data at {'c3' * 20} is not in the local cache" in other["error"]


def test_a_local_folder_does_not_stand_in_for_the_hub(ask: Ask, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "owner" / "data").mkdir(parents=True)
    (tmp_path / "owner" / "data" / "test.jsonl").write_text('{"q": "local"}\n')
    monkeypatch.chdir(tmp_path)
    (answer,) = ask({"repo": "owner/data", "config": "main", "split": "test"})
    assert answer["rows"][0]["q"] == "c"
