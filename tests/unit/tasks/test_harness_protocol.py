"""lm-eval's own definitions on our test items: the scores of a stock run on the same items, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks.manager import load_yaml

from lofit.evaluation.harness import evaluate
from lofit.files import write_jsonl
from lofit.spec.protocol import HARNESS
from lofit.tasks import Task, load_task, task_names
from tests.checkpoint import byte_tokenizer
from tests.tiny import tiny_model

TASKS = [name for name in task_names() if load_task(name).harness]


def stock_run(task: Task, items: list[dict[str, Any]], train: list[dict[str, Any]], folder: Path, model: Any) -> Any:
    """lm-eval's task classes and its ``hf`` model on a dataset in the hub's schema, none of our code in between."""
    import datasets

    assert task.harness
    by_name = {}
    for definition in task.harness.definitions:
        stock = load_yaml(Path(lm_eval.__file__).parent / "tasks" / definition)
        split = stock.get("test_split") or stock["validation_split"]
        files = {split: folder / "items.jsonl", stock.get("fewshot_split") or "train": folder / "train_items.jsonl"}
        write_jsonl(folder / "train_items.jsonl", train)
        write_jsonl(folder / "items.jsonl", items)
        loaded = datasets.DatasetDict(
            {
                name: datasets.Dataset.from_json(str(file), cache_dir=str(folder / "cache"))
                for name, file in files.items()
            }
        )
        stock |= {"dataset_path": None, "dataset_name": None, "custom_dataset": lambda loaded=loaded, **_: loaded}
        by_name[stock["task"]] = stock
    output = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=byte_tokenizer(), batch_size=4, backend="causal"),
        tasks=list(by_name.values()),
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
    )
    return {name: sorted(output["samples"][name], key=lambda sample: sample["doc_id"]) for name in by_name}


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    yield tiny_model("llama", vocab_size=259, max_position_embeddings=4096)


@pytest.mark.parametrize("name", TASKS)
def test_scores_are_those_of_a_stock_run(name: str, mirror_fetcher: Any, tmp_path: Path, model: Any) -> None:
    task = load_task(name)
    splits = task.prepare(task.Options(), task.folds[0], 0, mirror_fetcher)
    rows, train = splits.test[:4], splits.train[:8]
    for split, part in (("test", rows), ("train", train)):
        write_jsonl(tmp_path / f"{split}.jsonl", part)
    result, samples = evaluate(model, byte_tokenizer(), task, tmp_path / "test.jsonl", batch_size=4, protocol=HARNESS)
    expected = stock_run(task, [row["item"] for row in rows], [row["item"] for row in train], tmp_path, model)
    assert task.harness and task.harness.headline in result["metrics"]
    assert {sample["task"] for sample in samples} == set(expected)
    for stock, theirs in expected.items():
        ours = [sample for sample in samples if sample["task"] == stock]
        assert len(ours) == len(theirs) >= len(rows)
        for mine, other in zip(ours, theirs, strict=True):
            assert mine["arguments"] == other["arguments"]
            for got, wanted in zip(mine["resps"], other["resps"], strict=True):
                if isinstance(wanted[0], str):
                    assert got == wanted
                else:
                    assert got[0][0] == pytest.approx(wanted[0][0], abs=2e-4 * max(1, abs(wanted[0][0])))
                    assert got[0][1] == wanted[0][1]
