"""Questions with a right and a wrong answer, as ITI made them: rows, what is left out, malformed rows, scores."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lofit.errors import TaskError
from lofit.evaluation.harness import evaluate
from lofit.files import read_json, read_jsonl, write_jsonl
from lofit.sources.fetcher import Fetcher
from lofit.tasks import load_task, prepare_task
from lofit.tasks.truthfulqa.prepare import render as render_truthfulqa
from tests.checkpoint import byte_tokenizer
from tests.tiny import tiny_model

ITEMS: dict[str, dict[str, Any]] = {
    "nq_open_mc": {"question": "who sang it", "answer": ["Ann Lee", "Lee"], "false_answer": "Bo Ray"},
    "triviaqa_mc": {
        "question": "Who sang it? ",
        "answer": {"value": "Ann Lee", "aliases": ["Lee", "Ann (singer)"], "normalized_value": "ann lee"},
        "false_answer": "Bo Ray.",
    },
}
NAMES = pytest.mark.parametrize("name", ITEMS)


def prepared(name: str, rows: list[dict[str, Any]], folder: Path) -> Path:
    """Prepare a task from a mirror with the given rows, and return the file of test rows."""
    spec = import_module(f"lofit.tasks.{name}.prepare").SOURCE
    hub = folder / "mirror" / "hub" / spec.repo / spec.config
    hub.mkdir(parents=True, exist_ok=True)
    write_jsonl(hub / f"{spec.split}.jsonl", rows)
    task = load_task(name)
    prepare_task(task, task.Options(), 0, 0, Fetcher(folder / "cache", folder / "mirror"), folder / "out")
    return folder / "out" / "test.jsonl"


@NAMES
def test_rows_ask_as_truthfulqa_does(name: str, tmp_path: Path) -> None:
    path = prepared(name, [ITEMS[name]], tmp_path)
    [row] = read_jsonl(path)
    fields = {"Question": ITEMS[name]["question"], "Best Answer": "x", "Correct Answers": "x", "Incorrect Answers": "y"}
    assert row["prompt"] == render_truthfulqa(fields, " ", "")["prompt"]
    assert (row["choices"], row["gold"]) == (["Ann Lee.", "Bo Ray."], 0)
    assert [(tmp_path / "out" / f"{split}.jsonl").read_text() for split in ("train", "validation")] == ["", ""]
    [source] = read_json(tmp_path / "out" / "manifest.json")["provenance"]
    assert source["origin"].startswith("OamPatel/iti_")


@NAMES
def test_a_wrong_answer_that_is_right_is_left_out(name: str, tmp_path: Path) -> None:
    falses = ("Ann Lee", "the lee", "LEE!", "Lee Ann", "Leeds")
    rows = [ITEMS[name] | {"question": f"who sang {i}", "false_answer": text} for i, text in enumerate(falses)]
    left = [row["choices"][1] for row in read_jsonl(prepared(name, rows, tmp_path))]
    assert left == ["Lee Ann.", "Leeds."]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("nq_open_mc", {"question": " "}, "field 'question'"),
        ("nq_open_mc", {"answer": "Ann"}, "field 'answer' must be a list"),
        ("nq_open_mc", {"answer": [""]}, "must hold non-empty strings"),
        ("nq_open_mc", {"false_answer": None}, "field 'false_answer'"),
        ("triviaqa_mc", {"answer": ["Ann"]}, "field 'aliases' must be a list"),
        ("triviaqa_mc", {"answer": {"aliases": ["Ann"]}}, "answer: field 'value'"),
        ("triviaqa_mc", {"false_answer": ""}, "field 'false_answer'"),
    ],
)
def test_malformed_rows(name: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=rf"^OamPatel/iti_\w+ row 1\b.*{message}[^\n]*$"):
        prepared(name, [ITEMS[name], ITEMS[name] | change], tmp_path)


@NAMES
def test_the_right_answer_must_score_higher(name: str, tmp_path: Path, score: Any) -> None:
    rows = read_jsonl(prepared(name, [ITEMS[name] | {"question": f"who sang {i}"} for i in range(3)], tmp_path))
    means, items = score(name, rows, [[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0]])
    assert [item["acc"] for item in items] == [1, 0, 0]
    assert means["acc"] == pytest.approx(1 / 3)


@NAMES
def test_scores_of_a_model(name: str, tmp_path: Path) -> None:
    """A choice of the other answer turns every score around."""
    rows = [ITEMS[name] | {"question": f"who sang {i}", "false_answer": f"Bo {i * 'R'}."} for i in range(8)]
    path = prepared(name, rows, tmp_path)
    model = tiny_model("llama", vocab_size=259, max_position_embeddings=4096)
    found, samples = evaluate(model, byte_tokenizer(), load_task(name), path, batch_size=4)
    sums = [[score for ((score, _),) in sample["resps"]] for sample in samples]
    assert [sample["acc"] for sample in samples] == [float(right > wrong) for right, wrong in sums]
    assert 0 < found["metrics"]["acc"]["value"] < 1
    write_jsonl(path, [row | {"gold": 1} for row in read_jsonl(path)])
    turned, _ = evaluate(model, byte_tokenizer(), load_task(name), path, batch_size=4)
    assert turned["metrics"]["acc"]["value"] == pytest.approx(1 - found["metrics"]["acc"]["value"])
