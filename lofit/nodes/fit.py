"""The fit node: fit one method on one task and report losses, parameters, time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lofit.errors import FitError
from lofit.evaluation.harness import evaluate
from lofit.files import atomic_path, read_json, write_json
from lofit.interventions import parameter_counts
from lofit.methods import load_method
from lofit.models.adapters import checksums
from lofit.models.meter import environment
from lofit.models.session import Metric
from lofit.nodes.context import open_context, remove_save_points
from lofit.nodes.limits import limited
from lofit.nodes.model_card import write_card
from lofit.nodes.status import record_failure
from lofit.plan.nodes import FitNode
from lofit.plan.table import RunTable
from lofit.progress import without_progress


def run(table: RunTable, node: FitNode, killed: str | None = None) -> None:
    """Write ``adapter/``, ``fit.json`` and ``run.json``.

    ``adapter/`` holds a PEFT adapter, or a whole checkpoint if all weights were trained. If the fit failed, it is
    empty and ``fit.json`` holds the reason.

    Args:
        table: the run table of the configuration.
        node: the node to run.
        killed: reason of the failure, for a node that was killed; nothing is fitted.
    """
    folder = table.folder(node)
    with atomic_path(folder / "adapter") as adapter:
        adapter.mkdir()
        with record_failure() as report, limited(table.config.limits, table.config.device):
            if killed:
                raise FitError(killed)
            report |= fit_into(table, node, folder, adapter)
    write_json(folder / "run.json", node.identity)
    write_json(folder / "fit.json", report)
    remove_save_points(folder)


def fit_into(table: RunTable, node: FitNode, folder: Path, adapter: Path, scored: bool = False) -> dict[str, Any]:
    """Fit a method and write its adapter.

    Args:
        table: the run table of the configuration.
        node: what is fitted.
        folder: where training is saved, so that it can be resumed.
        adapter: an empty folder for the adapter.
        scored: whether to compute the headline metric on the validation rows, even if nothing planned chooses by it.

    Returns:
        What ``fit.json`` says of a fit, besides its status.

    Raises:
        FitError, EditError: the fit failed.
    """
    method = load_method(node.method)
    assert method.fit is not None
    context = open_context(table, node, f"{node.method} on {node.data.task}", folder, _metric(table, node, scored))
    fitted = method.fit(context, node.params)
    fitted.model.save_pretrained(str(adapter), safe_serialization=True)
    _sort_sets(fitted.model, adapter / "adapter_config.json")
    k = fitted.record["chosen"]["k"] if method.chooses_k else next(iter(node.k), None)
    heads = context.heads(k) if k else None
    write_card(adapter, node, heads)
    return {
        "n_heads": k,
        "heads": heads,
        **{f"{kind}_params": count for kind, count in parameter_counts(fitted.model, method.foldable).items()},
        "sha256": checksums(adapter),
        **({"metric": table.config.task(node.data.task).headline} if "validation_metric" in fitted.record else {}),
        **fitted.record,
        **environment(context.session.model),
    }


def _metric(table: RunTable, node: FitNode, scored: bool) -> Metric | None:
    """Return what computes the headline metric on the validation rows, under the task's own protocol.

    None if nothing reads it.
    """
    if not (scored or table.scores_validation(node)):
        return None
    task, rows = table.config.task(node.data.task), table.folder(node.data) / "validation.jsonl"

    def metric(model: Any, tokenizer: Any) -> float:
        with without_progress():
            scores, _ = evaluate(
                model, tokenizer, task, rows, batch_size=table.config.eval_batch_size, chat=node.data.chat
            )
        value: float = scores["metrics"][task.headline]["value"]
        return value

    return metric


def _sort_sets(model: Any, file: Path) -> None:
    """Sort the sets in a saved PEFT configuration, so that the file is reproducible.

    PEFT writes them in an order that differs between processes.
    """
    if file.is_file():
        config = model.peft_config[model.active_adapter]
        values = read_json(file)
        write_json(file, {k: sorted(v) if isinstance(getattr(config, k, None), set) else v for k, v in values.items()})


def summary_line(folder: Path) -> str:
    """Return one line for the log: validation losses and scores, what was chosen, stored parameters and seconds."""
    status = read_json(folder / "fit.json")
    if status["status"] != "ok":
        return f"failed: {status['reason']}"
    measured = {"validation loss": "loss", status.get("metric"): "metric", "preference accuracy": "preference_accuracy"}
    kept = status.get("kept_epoch", -1)
    held_out = "; ".join(
        f"{shown} " + (" -> ".join(f"{at:.3f}" for at in (values[0], values[kept]) if at is not None) or "none")
        for shown, name in measured.items()
        if (values := status.get(f"validation_{name}"))
    )
    chosen = ", ".join(f"{name} {value}" for name, value in status.get("chosen", {}).items())
    return (
        f"{held_out}; {f'kept epoch {kept}; ' if kept not in (-1, len(status['validation_loss']) - 1) else ''}"
        f"{f'chose {chosen}; ' if chosen else ''}"
        f"{status['stored_params']} parameters; {status['seconds']:.0f} s"
    )
