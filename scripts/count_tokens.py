"""Count rows and tokens of every task, for the estimates of `lofit plan`: writes lofit/tasks/sizes.yaml.

Tokens are those of SmolLM2's tokenizer, special tokens included. A training row is all texts of it; a test item is its
prompt once and every answer that is scored, or the most tokens that are generated; a text is read by the model and by
its base. The first fold stands for all. Rows with a source are official and stay. Tasks whose data cannot be had keep
what they had.

    python scripts/count_tokens.py --data-mirror ../shared/data
"""

from __future__ import annotations

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
from lofit.tasks import load_task, task_names
from lofit.tasks.sizes import SPLITS, measured
from lofit.tasks.task import Splits

TARGET = Path(__file__).parents[1] / "lofit" / "tasks" / "sizes.yaml"
HEAD = """\
# Sizes of tasks, for estimates only; written by scripts/count_tokens.py.
# Rows with a source are official: test as it says; train and validation are nine and one tenths of the training rows
# that it says, since texts are cut so (lofit/tasks/official.py), and few rows are left out afterwards. Other rows were
# counted, on complete data.
# Mean tokens were counted with SmolLM2's tokenizer on what a mirror for development has of the data, unless `tokens`
# says how else they were found.
"""


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
    splits = Splits(**{split: read_jsonl(table.folder(data) / f"{split}.jsonl") for split in SPLITS})
    return measured(task, splits, lambda text: len(tokenizer(text)["input_ids"]))


def updated(known: dict[str, Any], counted: dict[str, Any]) -> dict[str, Any]:
    """Return what was counted, with the rows that were known if these are official."""
    official = {name: known[name] for name in (*SPLITS, "source")} if "source" in known else {}
    return counted | official


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
                known[name] = updated(known.get(name, {}), count(name, tokenizer, data_mirror, Path(folder)))
            except LofitError as error:
                print(f"{name}: {error}", file=sys.stderr)
    lines = yaml.safe_dump(dict(sorted(known.items())), default_flow_style=None, sort_keys=False, width=1000)
    write_text(TARGET, HEAD + lines)


if __name__ == "__main__":
    typer.run(main)
