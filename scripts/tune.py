"""Find a learning rate per task and method on the validation split: the search behind the recipes of a new model.

For each task of a configuration: rank heads once (the localizer's recipe), fit every configured method at every
learning rate, score the validation items, print a table and write it as CSV. The test split is never read.

    python scripts/tune.py --configfile config.yaml --rates lofit=0.005,0.01,0.02 lora=0.0005,0.002 --out tuning.csv
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from lofit import tasks
from lofit.config import load_config
from lofit.files import atomic_path
from lofit.methods import load_method
from lofit.runs import FitNode, RunTable


def candidates(table: RunTable, rates: dict[str, list[float]]) -> list[FitNode]:
    """One node per configured fit and rate of its method, heads of the task itself."""
    return [
        replace(node, params=node.params | {"lr": rate})
        for node in table.fits.values()
        if node.heads_from is None or node.heads_from.data == node.data
        for rate in rates.get(node.method, [])
    ]


def score(table: RunTable, node: FitNode) -> dict[str, Any]:
    """Fit the node and score it on validation; rankings are made where they are not there yet."""
    from lofit.evaluate.harness import evaluate
    from lofit.fit.node import selected_heads
    from lofit.fit.session import open_session
    from lofit.fit.trainer import train
    from lofit.localize import node as localize_node
    from lofit.sources import node as source_node

    data, task = table.data_dir(node.data), tasks.load_task(node.data.task)
    if not table.model_dir(node.model).exists():
        source_node.fetch(table, node.model)
    if not data.exists():
        source_node.prepare(table, node.data)
    if node.heads_from and not (table.localize_dir(node.heads_from) / "heads.parquet").exists():
        localize_node.run(table, node.heads_from)
    session = open_session(table.model_dir(node.model), data, task.objective, seed=node.seed)
    method = load_method(node.method)
    params = method.Params.model_validate(node.params)
    fitted = train(session, method.adapter(params, selected_heads(table, node), node.seed), params, node.id)
    scores, _ = evaluate(
        fitted.model, session.tokenizer, task, data / "validation.jsonl", batch_size=table.config.eval_batch_size
    )
    return {
        "model": node.model,
        "task": task.name,
        "method": node.method,
        "n_heads": node.n_heads,
        "lr": params.lr,
        "epochs": params.epochs,
        "validation_loss": fitted.record["validation_loss"][-1],
        task.headline: scores["metrics"][task.headline]["value"],
        "n_items": scores["n_items"],
        "seconds": round(fitted.record["seconds"], 1),
    }


def main() -> None:
    """Run the search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configfile", type=Path, default=Path("config.yaml"))
    parser.add_argument("--rates", nargs="+", required=True, metavar="METHOD=LR,LR,...")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rates = {name: [float(r) for r in values.split(",")] for name, values in (r.split("=") for r in arguments.rates)}
    table = RunTable(load_config(arguments.configfile))
    rows: list[dict[str, Any]] = []
    for node in candidates(table, rates):
        rows.append(score(table, node))
        print(rows[-1], file=sys.stderr, flush=True)
        names = list(dict.fromkeys(name for row in rows for name in row))
        with atomic_path(arguments.out) as part, part.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
