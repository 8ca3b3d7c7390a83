"""The fit node: train one method's adapter and report what it took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lofit import tasks
from lofit.errors import FitError
from lofit.files import atomic_path, read_json, write_json
from lofit.fit.cost import environment
from lofit.fit.session import open_session
from lofit.methods import load_method
from lofit.methods.spec import Head
from lofit.runs import FitNode, RunTable


def run(table: RunTable, node: FitNode) -> None:
    """Write ``adapter/``, ``fit.json`` and ``run.json``.

    A fit that fails for its own reason leaves an empty ``adapter/`` and a status that says why.
    """
    folder = table.run_dir(node)
    try:
        status = _fit(table, node, folder / "adapter")
    except FitError as error:
        with atomic_path(folder / "adapter") as part:
            part.mkdir()
        status = {"status": "failed", "reason": str(error)}
    write_json(folder / "run.json", node.identity)
    write_json(folder / "fit.json", status)


def _fit(table: RunTable, node: FitNode, adapter: Path) -> dict[str, Any]:
    from lofit.fit.trainer import train
    from lofit.interventions import parameter_counts

    config, method = table.config, load_method(node.method)
    assert method.adapter is not None, f"{node.method} has nothing to fit"
    heads = selected_heads(table, node)
    session = open_session(
        table.model_dir(node.model),
        table.data_dir(node.data),
        tasks.load_task(node.data.task).objective,
        seed=node.seed,
        device=config.device,
        dtype=node.dtype,
        progress=config.progress,
    )
    params = method.Params.model_validate(node.params)
    trained = train(session, method.adapter(params, heads, node.seed), params, f"{node.method} on {node.data.task}")  # type: ignore[arg-type]
    counts = parameter_counts(trained.model)
    with atomic_path(adapter) as part:
        trained.model.save_pretrained(str(part), safe_serialization=True)
    return {
        "status": "ok",
        "reason": None,
        "heads": heads,
        **{f"{kind}_params": count for kind, count in counts.items()},
        **trained.record,
        **environment(session.model.device),
    }


def selected_heads(table: RunTable, node: FitNode) -> list[Head] | None:
    """The heads the node edits; None where the method selects none.

    Raises:
        FitError: their localization failed.
    """
    from lofit.localize.ranking import top_heads

    if node.heads_from is None or node.n_heads is None:
        return None
    folder = table.localize_dir(node.heads_from)
    status = read_json(folder / "localize.json")
    if status["status"] != "ok":
        raise FitError(f"localization failed: {status['reason']}")
    return top_heads(folder / "heads.parquet", node.n_heads)


def summary_line(folder: Path) -> str:
    """One line for the log: losses and cost."""
    status = read_json(folder / "fit.json")
    if status["status"] != "ok":
        return f"failed: {status['reason']}"
    held_out = [
        f"{loss:.3f}" for loss in (status["validation_loss"][0], status["validation_loss"][-1]) if loss is not None
    ]
    return (
        f"train loss {status['train_loss'][0]:.3f} -> {status['train_loss'][-1]:.3f}; "
        f"validation loss {' -> '.join(held_out) or 'none'}; "
        f"{status['trained_params']} parameters; {status['seconds']:.0f} s"
    )
