"""A small comparison without the workflow: every node of a configuration, one after the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lofit.cluster.watchdog import VARIABLE as OWNER
from lofit.config import Config, parse_config
from lofit.config.results import snapshot_path, write_snapshot
from lofit.errors import ConfigError
from lofit.files import expanded
from lofit.methods import load_method, method_names
from lofit.node_server.client import REUSE, killed_by
from lofit.node_server.client import VARIABLE as NODE_SERVER
from lofit.nodes import module_of, prepare
from lofit.plan.kinds import FETCH, KINDS, PREPARE
from lofit.plan.store import is_done, recorded
from lofit.plan.table import RunTable
from lofit.report.outputs import outputs
from lofit.sources.catalog import load_catalog
from lofit.sources.models import is_current, model_size
from lofit.spec.protocol import paper
from lofit.tasks import task_names


def configuration(
    data: Path,
    model: str,
    methods: Sequence[str],
    k: float,
    seeds: Sequence[int],
    out: Path,
    data_mirror: Path | None,
    overlap: Literal["refuse", "replace", "keep"] = "refuse",
    reuse: Sequence[Path] = (),
    read: Mapping[str, Any] | None = None,
    chat: bool = False,
    system: str | None = None,
) -> Config:
    """The configuration of methods, and the base model, on a custom task.

    Args:
        data: folder of JSON lines, a data file, or a YAML file that describes them.
        model: a name of the catalogue, or a transformers folder.
        methods: what to fit.
        k: heads that methods with selected heads edit: their number, or their share.
        seeds: of training.
        out: folder for everything that is written.
        data_mirror: folder that stands in for the network.
        overlap: what is done with prompts that training rows share with validation or test.
        reuse: stores that nodes are taken from.
        read: what the columns of a data file mean (``read`` of a task).
        chat: whether prompts are messages that the chat template words.
        system: message of the system before them.

    Raises:
        ConfigError: the model is unknown, its folder holds none, or the number of heads is none.
        SourceError: the model's configuration is damaged, or does not tell its size.
    """
    if not (0 < k <= 1 or (k > 1 and float(k).is_integer())):
        raise ConfigError(f"--k {k:g}: give a whole number of heads, or a share of them between 0 and 1")
    data, model_dir, out = expanded(data), expanded(Path(model)), expanded(out)
    name = _name(data.stem if data.is_file() else data.resolve().name, "task")
    name = f"my-{name}" if name in task_names() else name
    task = {"path": str(data), "options": {"overlap": overlap}} | ({"read": dict(read)} if read else {})
    raw: dict[str, Any] = {
        "models": [model],
        "tasks": {name: task},
        "methods": {"base": None} | {method: _with_heads(method, k) for method in methods},
        "protocols": [paper(chat)],
        "system": system,
        "lr_grid": None,
        "seeds": list(seeds),
        "results": str(out),
        "resources": str(out / "resources"),
        "data_mirror": str(expanded(data_mirror)) if data_mirror else None,
        "reuse": [str(expanded(store)) for store in reuse],
    }
    if model not in load_catalog() and model_dir.is_dir():
        name = _name(model_dir.resolve().name, "model")
        raw |= {"models": [name], "model_sources": {name: _model_source(expanded(model_dir.resolve()))}}
    return parse_config(raw, "train")


def _name(folder: str, otherwise: str) -> str:
    """What a folder is called in tables and paths, where blanks and letters beyond ASCII have no place."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", folder).lstrip("_.-")[:100].rstrip("-") or otherwise


def _with_heads(method: str, k: float) -> dict[str, Any] | None:
    if method not in method_names() or not load_method(method).localizer:
        return None
    return {"heads": {"k": [int(k) if k >= 1 else k]}}


def _model_source(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder}/config.json cannot be read (there is none); give a transformers folder")
    n_layers, n_heads = model_size(folder)
    return {"source": {"kind": "local", "path": str(folder)}, "n_layers": n_layers, "n_heads": n_heads}


def fetch(table: RunTable) -> None:
    """Prepare the data, and fetch the models that are not there yet, or have changed since."""
    for data in table.data.values():
        prepare.check(table, data)  # before anything is written or downloaded
    write_snapshot(table.config)
    for data in table.data.values():
        with recorded(table, PREPARE, data):
            module_of(PREPARE).run(table, data)  # own files may have changed
    for model in table.models.values():
        if not is_current(table.config.model_entry(model.model).source, table.folder(model)):
            module_of(FETCH).run(table, model)


def run(table: RunTable, threads: int = 1) -> None:
    """Run every node that computes and is not done, each in its own process, and draw the tables, figures and report.

    Args:
        table: of a configuration whose models and data are there (:func:`fetch`).
        threads: CPU threads of a node.

    Raises:
        SystemExit: a node did not run; it has said why, and this is its exit status.
    """
    from lofit.report.page import write_report
    from lofit.report.parts import collect_results

    environment = os.environ | {
        OWNER: str(os.getpid()),  # nodes and their servers end with this process
        "LOFIT_CONFIG": str(snapshot_path(table.config).absolute()),
        REUSE: os.pathsep.join(str(store.absolute()) for store in table.config.reuse),
    }
    if table.config.node_server:
        environment[NODE_SERVER] = str(table.config.results.absolute() / "logs" / "servers")
    for kind in KINDS:
        for id, node in kind.nodes(table).items():
            if kind in (FETCH, PREPARE) or is_done(table, kind, node):
                continue
            command = [sys.executable, "-P", "-m", "lofit", "node", kind.name, id, "--threads", str(threads)]
            status = subprocess.run(command, env=environment, check=False).returncode
            if status < 0:
                print(f"error: {kind.name} {id}: {killed_by(-status)}", file=sys.stderr)
            if status:
                sys.exit(status if status > 0 else 128 - status)
    for part in table.parts():
        collect_results(table, part)
    for output in outputs(table):
        output.write(table)
    write_report(table)
