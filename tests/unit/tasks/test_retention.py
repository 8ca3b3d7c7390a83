"""Tasks for evaluation only: what is asked, and how answers are scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.utils import apply_template

from lofit.errors import TaskError
from lofit.tasks import TaskOptions, load_task, prepare_task
from lofit.tasks.answers import exact_match, f1, normalised_answer, span_match
from lofit.tasks.mmlu.prepare import render as render_mmlu
from lofit.tasks.nq_open.prepare import render as render_nq
from lofit.tasks.triviaqa.prepare import render as render_trivia

NQ = {"question": "who sang it", "answer": ["Ann Lee", "Lee"]}
TRIVIA = {"question": "Who sang it?", "answer": {"aliases": ["Ann", "Ann Lee"], "value": "Ann"}}
MMLU = {"question": " Which? ", "subject": "high_school_physics", "choices": ["a b", "c", "d", "e"], "answer": 2}


def stock(path: str) -> dict[str, Any]:
    text = (Path(lm_eval.__file__).parent / "tasks" / path).read_text()
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def test_prompts_are_those_of_lm_eval() -> None:
    nq = stock("nq_open/nq_open.yaml")
    assert render_nq(NQ, "")["prompt"] == nq["description"] + apply_template(nq["doc_to_text"], NQ)
    trivia = stock("triviaqa/default.yaml")
    assert render_trivia(TRIVIA, "")["prompt"] == apply_template(trivia["doc_to_text"], TRIVIA)
    mmlu = stock("mmlu/default/_default_template_yaml")
    described = stock("mmlu/default/mmlu_high_school_physics.yaml")["description"]
    row = render_mmlu(MMLU, "")
    assert row["prompt"] == described + apply_template(mmlu["doc_to_text"], MMLU)
    assert row["choices"] == mmlu["doc_to_choice"]
    assert row["gold"] == 2


def test_questions_of_mmlu_on_one_passage_are_dependent() -> None:
    intro = 'This question refers to the following information.\n"We hold these truths."\nJefferson, 1776'
    asked = [f"{intro}\nWho wrote it?", f"{intro}\nWhen?", "It rains.\nWhy?", intro.partition("\n")[0]]
    contexts = [render_mmlu(MMLU | {"question": question}, "")["context"] for question in asked]
    assert contexts == [intro, intro, *asked[2:]]


def test_golden_rows_of_nq_open(splits: Any) -> None:
    made = splits("nq_open")
    assert (len(made.test), made.train, made.validation) == (3569, [], [])
    first = made.test[0]
    assert first["prompt"] == "Answer these questions:\n\nQ: who sings it's all about the bass lyrics?\nA:"
    assert first["answers"] == ["Meghan Trainor"]
    assert made.test[4]["answers"] == ["president pro tempore", "a president pro tempore"]
    assert made.test[3]["prompt"].endswith("Q: how many words are on the dolch sight word list?\nA:")


def test_only_test_rows_are_prepared(file_fetcher: Any, tmp_path: Path) -> None:
    task = load_task("nq_open")
    rows = [NQ | {"question": f"who sang {i}"} for i in range(9)]
    prepare_task(task, TaskOptions(n_test=4), 0, 0, file_fetcher(rows={"validation": rows}), tmp_path / "out")
    lines = {split: (tmp_path / "out" / f"{split}.jsonl").read_text().count("\n") for split in ("train", "test")}
    assert lines == {"train": 0, "test": 4}


@pytest.mark.parametrize(
    ("render", "item", "change", "message"),
    [
        (render_nq, NQ, {"answer": []}, "'answer' must be a list"),
        (render_nq, NQ, {"answer": [""]}, "must hold non-empty strings"),
        (render_nq, NQ, {"question": ""}, "field 'question'"),
        (render_trivia, TRIVIA, {"answer": None}, "'aliases'"),
        (render_trivia, TRIVIA, {"answer": {"aliases": [1]}}, "'answer.aliases' must hold"),
        (render_mmlu, MMLU, {"choices": ["a"]}, "must hold four texts"),
        (render_mmlu, MMLU, {"answer": 4}, "must be 0 to 3"),
        (render_mmlu, MMLU, {"answer": True}, "must be 0 to 3"),
    ],
)
def test_malformed_rows(render: Any, item: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        render(item | change, "row 3")
    assert str(caught.value).startswith("row 3")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nq_open", "triviaqa"])
def test_scores_of_generated_answers(score: Any, name: str) -> None:
    row = {"prompt": "Q: who?\nA:", "answers": ["The Beatles", "Fab Four"]}
    outputs = ["beatles!", "the fab  four", "The Rolling Stones and the Beatles", "", "Les Béatles"]
    rows = [row | {"id": str(i)} for i in range(len(outputs))]
    means, items = score(name, rows, outputs)
    assert [item["exact_match"] for item in items] == [1, 1, 0, 0, 0]
    # four words that count in the third output, one of them shared with the one-word answer
    assert [item["f1"] for item in items] == pytest.approx([1, 1, 2 / 5, 0, 0])
    assert means["f1"] == pytest.approx(2.4 / 5)
    assert [item["span_match"] for item in items] == [span_match(output, rows[0]["answers"]) for output in outputs]


@pytest.mark.parametrize(
    ("output", "right"),
    [
        (" Ann Lee", 1),
        ("lee", 1),
        ("The Lee family.\nQ: who", 1),
        ('"Ann-Lee"', 0),
        ("Ann", 0),
        ("It was Ann Lee", 0),
        ("Leeds", 0),
        ("Lee's", 0),
        ("", 0),
        ("Bo Ray", 0),
    ],
)
def test_the_first_span_counts_however_the_output_goes_on(output: str, right: float) -> None:
    assert span_match(output, ["Ann Lee", "Lee"]) == right
    assert span_match(output, [",", "Ann Lee", "Lee"]) == right, "a comma is no answer beside others"
    assert span_match(output, [","]) == (not output), "and no prefix of everything"
    assert exact_match(output, [","]) == f1(output, [","]) == (not output)


def test_scores_of_mmlu(score: Any) -> None:
    rows = [{"id": str(i), "prompt": "Answer:", "choices": list("ABCD"), "gold": i} for i in range(2)]
    means, _ = score("mmlu", rows, [[-1.0, -2.0, -3.0, -4.0], [-1.0, -2.0, -3.0, -4.0]])
    assert means["acc"] == 0.5


@given(st.text(max_size=20), st.lists(st.text(max_size=12), min_size=1, max_size=3))
def test_f1_is_between_exact_match_and_one(output: str, answers: list[str]) -> None:
    assert exact_match(output, answers) <= f1(output, answers) <= 1
    assert exact_match(output, answers) <= span_match(output, answers)
    with_words = list(filter(normalised_answer, answers)) or answers
    assert f1(with_words[0], answers) == exact_match(with_words[0], answers) == 1
    assert normalised_answer(normalised_answer(output)) == normalised_answer(output)
