"""Find a learning rate per task and method on the validation split: the search behind the recipes of a new model.

For each task of a configuration: rank heads once (the localizer's recipe), fit every named method at every learning
rate, score the validation items, and write a table as CSV. The test split is never read. A fit that fails is a row
that says why.

    python scripts/tune.py --configfile config.yaml --rate lofit=0.01 --rate lofit=0.03 --rate lora=0.002 --out tune.csv
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from lofit import registry
from lofit.cli import set_up_computing
from lofit.config import load_config
from lofit.errors import ConfigError, LofitError
from lofit.files import atomic_path
from lofit.methods import load_method
from lofit.runs import FitNode, RunTable


def candidates(table: RunTable, rates: list[str]) -> list[FitNode]:
    """One node per configured fit and rate of its method, heads of the task itself.

    Raises:
        ConfigError: a rate is not ``method=number``, or names a method that is not configured or has no rate.
    """
    wanted: dict[str, list[float]] = {}
    for text in rates:
        name, _, value = text.partition("=")
        if name not in table.config.methods:
            raise ConfigError(f"--rate {text}: {registry.unknown('method', name, table.config.methods)}")
        if "lr" not in load_method(name).Params.model_fields:
            raise ConfigError(f"--rate {text}: {name} has no learning rate")
        try:
            wanted.setdefault(name, []).append(float(value))
        except ValueError:
            raise ConfigError(f"--rate {text}: '{value}' is not a number; write method=0.01") from None
    return [
        replace(node, params=node.params | {"lr": rate})
        for node in table.fits.values()
        if node.heads_from is None or node.heads_from.data == node.data
        for rate in wanted.get(node.method, [])
    ]


def bring(table: RunTable, node: FitNode) -> None:
    """Fetch the node's model and data if they are not there yet."""
    from lofit.sources import node as source_node

    if not table.model_dir(node.model).exists():
        source_node.fetch(table, node.model)
    if not table.data_dir(node.data).exists():
        source_node.prepare(table, node.data)


def score(table: RunTable, node: FitNode) -> dict[str, Any]:
    """Read activations and rank heads if that is still to be done, fit the node and score it on validation."""
    from lofit.activations import node as activations_node
    from lofit.evaluate.harness import evaluate
    from lofit.fit.outcome import outcome
    from lofit.fit.workbench import open_workbench
    from lofit.localize import node as localize_node

    for user in (node.heads_from, node):
        activations = table.activations_of(user) if user else None
        if activations and not table.activations_dir(activations).exists():
            activations_node.run(table, activations)
    if node.heads_from and not (table.localize_dir(node.heads_from) / "heads.parquet").exists():
        localize_node.run(table, node.heads_from)

    task, method = table.config.task(node.data.task), load_method(node.method)
    assert method.fit is not None
    with outcome() as report:
        bench = open_workbench(table, node, node.id)
        fitted = method.fit(bench, method.Params.model_validate(node.params))
        items = table.data_dir(node.data) / "validation.jsonl"
        scores, _ = evaluate(
            fitted.model, bench.session.tokenizer, task, items, batch_size=table.config.eval_batch_size
        )
        report |= {
            "validation_loss": fitted.record["validation_loss"][-1],
            "metric": task.headline,
            "value": scores["metrics"][task.headline]["value"],
            "n_items": scores["n_items"],
            "seconds": round(fitted.record["seconds"], 1),
        }
    identity = {"model": node.model, "task": task.name, "fold": node.data.fold, "seed": node.seed}
    settings = {"method": node.method, "k": "|".join(map(str, node.k)), "lr": node.params["lr"]}
    return identity | settings | report


def main(
    rate: Annotated[list[str], typer.Option(help="METHOD=LEARNING_RATE, as often as needed.")],
    out: Annotated[Path, typer.Option(help="CSV to write; it grows with every fit.")],
    configfile: Annotated[Path, typer.Option(help="Configuration.")] = Path("config.yaml"),
) -> None:
    """Try learning rates on the validation split of every task of a configuration."""
    try:
        table = RunTable(load_config(configfile))
        nodes = candidates(table, rate)
        for node in nodes:
            bring(table, node)
        set_up_computing(table.config.threads)
        rows = []
        for node in nodes:
            rows.append(score(table, node))
            print(rows[-1], file=sys.stderr, flush=True)
            with atomic_path(out) as part:
                pd.DataFrame(rows).to_csv(part, index=False)
    except LofitError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    typer.run(main)
