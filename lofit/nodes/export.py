"""Export a fitted method as a folder that works outside the workflow: a plain checkpoint or a PEFT adapter."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch

from lofit.errors import FitError
from lofit.files import read_json, user_folder
from lofit.interventions import export_merged
from lofit.interventions.tuner.fold import bias_passed_over_by_vllm
from lofit.interventions.tuner.steering import write_control_vector, write_steered
from lofit.methods import load_method
from lofit.models.adapters import load_fitted, verify
from lofit.models.loading import load_tokenizer, pick_dtype
from lofit.nodes.model_card import write_card
from lofit.plan.kinds import kind_of
from lofit.plan.nodes import FitNode, PlantNode
from lofit.plan.table import RunTable
from lofit.sources.hub import push_folder

Format = Literal["hf", "peft", "steered", "gguf"]


def fitted_report(table: RunTable, node: FitNode) -> dict[str, Any]:
    """Return the report of a fit whose adapter or checkpoint can be used.

    Raises:
        FitError: the method fits nothing, the fit failed, or it was of a damaged model.
        SourceError: the fitted files were altered after the fit.
    """
    if isinstance(node.data, PlantNode):
        raise FitError(f"{node.id}: fitted to a damaged model, which is of no other use; name the run of a task")
    if load_method(node.method).fit is None:
        raise FitError(f"{node.id}: {node.method} fits nothing; name the run of a method that does")
    report = kind_of(node).read_report(table, node)
    if report["status"] != "ok":
        raise FitError(f"{node.id}: the fit failed ({report['reason']}); name another run")
    verify(table.folder(node) / "adapter", report.get("sha256"))
    return report


def export(table: RunTable, node: FitNode, target: Path, form: Format) -> None:
    """Write a fitted run to ``target``, with a model card that lists its scores if it was evaluated.

    If vLLM would not apply the edit of a checkpoint, the model card and a line on stderr say so.

    Args:
        table: the run table of the configuration.
        node: the fit to export.
        target: folder to write; it must be missing, empty, or an earlier export.
        form: ``hf`` writes a ``transformers`` checkpoint with tokenizer, the adapter merged into the weights, which
            loads without this package. ``peft`` writes the adapter. ``steered`` and ``gguf`` write vectors that lm-eval
            and llama.cpp add (:mod:`lofit.interventions.tuner.steering`).

    Raises:
        LofitError: there is anything else at ``target``.
        FitError: there is nothing to export, or the fit failed.
        SourceError: the fitted files were altered after the fit.
        EditError: the edit cannot be merged into a model of this family, or is not the addition of a vector.
    """
    report = fitted_report(table, node)
    fitted, model_dir = table.folder(node) / "adapter", table.model_dir(node.model)
    is_adapter = (fitted / "adapter_config.json").is_file()
    scores = table.folder(table.own_evaluation(node)) / "results.json"
    metrics = read_json(scores)["metrics"] if scores.is_file() else {}
    if form != "hf" and not is_adapter:
        raise FitError(f"{node.id}: {node.method} trains the model itself, so there is no adapter; use --format hf")
    cpu = torch.device("cpu")
    dtype = pick_dtype(node.dtype, cpu)
    if form != "peft" and not isinstance(dtype, torch.dtype):
        raise FitError(f"{node.id}: fitted to {dtype} weights, which other programs do not have; use --format peft")
    warning = ""
    with user_folder(target, outside=(table.config.results / "runs", table.config.resources)) as part:
        if is_adapter and form != "peft":
            model: Any = load_fitted(model_dir, fitted, cpu, dtype)
            if form == "hf":
                export_merged(model, part, load_tokenizer(model_dir))
                if passed_over := bias_passed_over_by_vllm(part, model.config):
                    warning = f"{passed_over}: it loads this checkpoint without the edit and without an error"
            else:
                part.mkdir()
                (write_steered if form == "steered" else write_control_vector)(model, part)
        else:
            shutil.copytree(fitted, part)
            if form == "hf":
                load_tokenizer(model_dir).save_pretrained(part)
        write_card(part, node, heads=report["heads"], metrics=metrics, warning=warning)
    if warning:
        print(f"warning: {warning}", file=sys.stderr, flush=True)


def push(table: RunTable, node: FitNode, repo: str, form: Format, *, private: bool) -> str:
    """Upload what :func:`export` writes to a model repository of the hub, and return the URL of the commit.

    Raises:
        LofitError: see :func:`export`; or the hub cannot be reached, or the token may not write there.
    """
    with tempfile.TemporaryDirectory() as folder:
        export(table, node, Path(folder) / "out", form)
        return push_folder(Path(folder) / "out", repo, private=private)
