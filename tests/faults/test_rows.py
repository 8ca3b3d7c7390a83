"""Malformed rows: whatever is in a field, preparing ends in one line that names the row."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from lofit.errors import TaskError
from lofit.files import read_jsonl
from lofit.sources.fetcher import Fetcher
from lofit.tasks import load_task, prepare_task

ITEMS: dict[str, dict[str, Any]] = {
    "arc_challenge": {"question": "Why?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
    "openbookqa": {"question_stem": "Why", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"},
    "boolq": {"question": "is it", "passage": "It is.", "answer": True},
    "winogrande": {"sentence": "Al saw Bo so _ ran .", "option1": "Al", "option2": "Bo", "answer": "2"},
    "svamp": {"Body": "Al has 3 pens", "Question": "How many are 3 and 4 more?", "Answer": "7.0"},
    "gsm8k": {"question": "What is 1+1?", "answer": "It is 2.\n#### 2"},
    "aqua": {"question": "Why?", "options": ["A)1", "B)2", "C)3", "D)4", "E)5"], "correct": "B"},
    "mmlu": {"question": "Why?", "subject": "logic", "choices": ["a", "b", "c", "d"], "answer": 1},
    "nq_open": {"question": "why", "answer": ["because"]},
    "triviaqa": {"question": "Why?", "answer": {"value": "x", "aliases": ["x", "y"], "normalized_aliases": ["x"]}},
    "siqa": {"context": "c", "question": "q", "answerA": "a", "answerB": "b", "answerC": "d", "label": "1"},
    "mquake": {
        "requested_rewrite": [{"prompt": "{} is", "subject": "s", "target_new": {"str": "t"}}],
        "questions": ["why?"],
        "answer": "a",
        "new_answer": "b",
        "new_answer_alias": ["c"],
        "case_id": 3,
    },
    "clutrr": {"id": "x", "query": "('A', 'B')", "target_text": "aunt", "clean_story": "[A] is [B]'s."},
    "truthfulqa": {"Question": "Why?", "Best Answer": "a", "Correct Answers": "a; b", "Incorrect Answers": "c; d"},
}
MORE: dict[str, tuple[Any, ...]] = {"clutrr": (False,), "mquake": (" ",), "truthfulqa": (" ",)}
STRANGE: list[Any] = [None, "", "  ", "x", 0, 7.5, True, [], {}, [None], [[]], [3, ""], {"text": None}, {"str": []}]


CASES = [(name, ITEMS[name], {}) for name in ITEMS] + [
    (name, ITEMS[name], {"format": "llm_adapters"}) for name in ("arc_challenge", "boolq", "openbookqa", "siqa")
]
CASES.append(("winogrande", ITEMS["winogrande"], {"format": "llm_adapters", "frame": True}))
CASES.append(("svamp", ITEMS["svamp"] | {"Equation": "( 3.0 + 4.0 )"}, {"target": "equation"}))


def render(name: str, item: Any, **options: Any) -> Any:
    made = importlib.import_module(f"lofit.tasks.{name}.prepare").render
    if "options" in inspect.signature(made).parameters:
        return made(item, "row 3", load_task(name).Options(**options))
    return made(item, *MORE.get(name, ()), "row 3")


@pytest.mark.parametrize(("name", "item", "options"), CASES)
def test_any_value_of_any_field_gives_a_row_or_one_line(name: str, item: Any, options: dict[str, Any]) -> None:
    assert render(name, item, **options)
    refused = 0
    for field in item:
        for value in STRANGE:
            try:
                render(name, item | {field: value}, **options)
            except TaskError as error:
                refused += 1
                assert str(error).startswith("row 3"), error
                assert "\n" not in str(error)
        with pytest.raises(TaskError, match="row 3"):
            render(name, {key: kept for key, kept in item.items() if key != field}, **options)
    assert refused > len(STRANGE) // 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": "a", "answer": "b', r"train.jsonl:2: not valid JSON"),
        (b'["prompt"]', r"train.jsonl:2: expected a JSON object"),
        (b'{"prompt": "\xff", "answer": "b"}', r"train.jsonl:2: not UTF-8"),
        (b'{"prompt": "a", "answer": ""}', r"train.jsonl row 2: field 'answer' must be a non-empty string"),
        (b'{"prompt": "a", "answer": 3}', r"train.jsonl row 2: field 'answer' must be a non-empty string"),
        (b'{"prompt": null, "answer": "b"}', r"train.jsonl row 2: field 'prompt' must be a non-empty string"),
        (b'{"prompt": "a", "answers": [""]}', r"train.jsonl row 2: 'answers' must be non-empty strings"),
    ],
)
def test_a_malformed_line_of_an_own_task_is_named_and_nothing_is_written(
    line: bytes, message: str, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        rows = [{"prompt": f"{split} {i}?", "answer": str(i)} for i in range(20)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = (tmp_path / "train.jsonl").read_bytes().split(b"\n")
    (tmp_path / "train.jsonl").write_bytes(b"\n".join([lines[0], line, *lines[2:]]))
    with pytest.raises(TaskError, match=message):
        task = load_task("mine", tmp_path)
        options = task.Options()
        prepare_task(task, options, 0, 42, Fetcher(tmp_path / "downloads", None), tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_lines_may_hold_any_separator_but_the_line_break(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": "x\u2028y\u0085z"}\r\n\n{"a": "b"}', encoding="utf-8")
    assert read_jsonl(file) == [{"a": "x\u2028y\u0085z"}, {"a": "b"}]


@pytest.mark.parametrize("name", ["clutrr", "gsm8k", "listops", "mquake", "nq_open", "custom", "svamp", "triviaqa"])
@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_generated_text_is_a_wrong_answer(name: str, text: str) -> None:
    utils = importlib.import_module(f"lofit.tasks.{name}.utils")
    metrics = utils.process_results({"answers": ["4"], "answer": "4", "separator": " "}, [text])
    assert metrics
    assert set(metrics.values()) == {0.0}


def test_an_empty_open_answer_is_scored() -> None:
    utils = importlib.import_module("lofit.tasks.truthfulqa.utils")
    row = render("truthfulqa", ITEMS["truthfulqa"])
    metrics = utils.process_open(row, [""])
    assert all(value == value for value in metrics.values())
