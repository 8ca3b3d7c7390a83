"""Count rows and tokens of every task, for the estimates of `lofit plan`: writes lofit/tasks/sizes.yaml.

Tokens are those of SmolLM2's tokenizer, special tokens included. A training row is all texts of it; a test item is its
prompt once and every answer that is scored, or the most tokens that are generated. The first fold stands for all. Tasks
whose data cannot be had keep what was counted before.

    python scripts/count_tokens.py --data-mirror ../shared/data
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from lofit.cluster.process import set_up_computing
from lofit.config import parse_config
from lofit.errors import LofitError
from lofit.files import read_jsonl, write_text
from lofit.plan.table import RunTable
from lofit.tasks import lm_eval_config, load_task, task_names

TARGET = Path(__file__).parents[1] / "lofit" / "tasks" / "sizes.yaml"
HEAD = "# Rows per split and mean tokens, by scripts/count_tokens.py with SmolLM2's tokenizer; for estimates only.\n"


def new_tokens(name: str) -> int:
    """Tokens generated per item at most, as the task's definition says."""
    return int(lm_eval_config(load_task(name))["generation_kwargs"]["max_gen_toks"])


def training_texts(row: dict[str, Any]) -> list[str]:
    """The texts of a training row."""
    if "chosen" in row:
        return [row["train_prompt"] + row["chosen"], row["train_prompt"] + row["rejected"]]
    return [row["prompt"] + row["target"]]


def count(name: str, tokenizer: Any, mirror: Path | None, folder: Path) -> dict[str, Any]:
    """Rows and mean tokens of one task."""
    from lofit.nodes import prepare

    task = load_task(name)
    key = "tasks" if task.objective else "retention"
    config = {"models": ["smollm2-135m"], "tasks": {"listops": None}, "methods": {"base": None}}
    config |= {"resources": str(folder), "data_mirror": str(mirror) if mirror else None}
    config[key] = {**config.get(key, {}), name: {"folds": [task.folds[0]]}}  # type: ignore[dict-item]
    table = RunTable(parse_config(config))
    data = next(data for data in table.data.values() if data.task == name)
    prepare.run(table, data)
    splits = {split: read_jsonl(table.folder(data) / f"{split}.jsonl") for split in ("train", "validation", "test")}

    def tokens(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    def item(row: dict[str, Any]) -> int:
        if "text" in row:
            return tokens(row["text"])
        answers = [tokens(f" {choice}") for choice in row.get("choices", [])]
        return tokens(row["prompt"]) + (sum(answers) if answers else new_tokens(name))

    found: dict[str, Any] = {split: len(rows) for split, rows in splits.items()}
    rows = splits["train"]
    if rows:
        found["row_tokens"] = round(statistics.fmean(sum(map(tokens, training_texts(row))) for row in rows), 1)
    found["item_tokens"] = round(statistics.fmean(map(item, splits["test"])), 1)
    return found


def main(
    data_mirror: Annotated[Path | None, typer.Option(help="Folder that stands in for the network.")] = None,
) -> None:
    """Count all tasks."""
    set_up_computing(1)
    from lofit.models.loading import load_tokenizer
    from lofit.nodes import fetch

    known = yaml.safe_load(TARGET.read_text(encoding="utf-8")) if TARGET.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        config = {"models": ["smollm2-135m"], "tasks": {"listops": None}, "methods": {"base": None}}
        table = RunTable(parse_config(config | {"resources": folder}))
        for model in table.models.values():
            fetch.run(table, model)
        tokenizer = load_tokenizer(table.model_dir("smollm2-135m"))
        for name in task_names():
            try:
                known[name] = count(name, tokenizer, data_mirror, Path(folder))
            except LofitError as error:
                print(f"{name}: {error}", file=sys.stderr)
    write_text(TARGET, HEAD + yaml.safe_dump(dict(sorted(known.items())), default_flow_style=None, sort_keys=False))


if __name__ == "__main__":
    typer.run(main)
