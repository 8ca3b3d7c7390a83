"""MQuAKE: rendering, sizes, scores."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from lofit.errors import TaskError
from lofit.files import read_jsonl
from lofit.tasks import load_task, prepare_task
from lofit.tasks.mquake.prepare import with_strata

TASK = load_task("mquake")

ITEM = {
    "case_id": 7,
    "requested_rewrite": [{"prompt": "{} is a citizen of", "subject": "Ann", "target_new": {"str": "Sweden"}}],
    "questions": ["Where is Ann from?", "a paraphrase", "another"],
    "answer": "Norway",
    "new_answer": "Sweden",
    "new_answer_alias": ["Sverige"],
}


@pytest.mark.parametrize(
    ("split", "index", "prompt", "target", "answers"),
    [
        (
            "train",
            0,
            "Q: Imagine that The name of the current head of the Nigeria government is Karl Döhler. "
            "Who was the head of government of the country where Ahmadu Bello was a citizen? A:",
            " Karl Döhler",
            ["Karl Döhler"],
        ),
        (
            "validation",
            0,
            "Q: Imagine that SMAP was created in the country of Trinidad and Tobago. "
            "What continent is the country of origin of SMAP located in? A:",
            " North America",
            ["North America", "NA", "Turtle Island", "North and Central America"],
        ),
        (
            "test",
            0,
            "Q: Imagine that John Krasinski is a citizen of Sweden. "
            "Which country is the spouse of Emily Blunt a citizen of? A:",
            " Sweden",
            ["Sweden", "se", "SWE", "Sverige", "SE", "Kingdom of Sweden", "Konungariket Sverige", "🇸🇪"],
        ),
    ],
)
def test_golden_rows(splits, split: str, index: int, prompt: str, target: str, answers: list[str]) -> None:
    row = getattr(splits("mquake"), split)[index]
    assert (row["prompt"], row["target"], row["answers"]) == (prompt, target, answers)
    glued = getattr(splits("mquake", compat_glued_answer=True), split)[index]
    assert (glued["prompt"], glued["target"], glued["answers"]) == (prompt, target[1:], answers)


def test_sizes(splits) -> None:
    made = splits("mquake")
    assert (len(made.train), len(made.validation), len(made.test)) == (134, 95, 864)


def test_items_are_dependent_by_their_edit(splits) -> None:
    row = splits("mquake").test[0]
    assert (row["edit"], TASK.cluster_field) == ("John Krasinski is a citizen of Sweden", "edit")


def test_strata_are_told_as_answers_are_compared() -> None:
    def row(edited: str, *answers: str) -> dict:
        return {"edited": edited, "answers": list(answers)}

    rows = [
        row("Köln", "Cologne", "KO\u0308LN"),
        row("Bonn", "the Rhine", "Rhine"),
        row("Bonn", "river Rhine"),
        row("Rhine", "Rhine"),
        row("Bonn", "Rhenus"),
    ]
    found = [made["stratum"] for made in with_strata(rows, [row("x", "rhine ", "Rhenus")])]
    copied, trained = "answer is the edited object", "answer occurs in training"
    assert found == [copied, trained, "neither", copied, "neither"], "an alias is no target of training"


def test_strata_of_the_published_items(splits, mirror_fetcher, tmp_path: Path) -> None:
    expected = {"answer is the edited object": 311, "answer occurs in training": 200, "neither": 353}
    assert Counter(row["stratum"] for row in splits("mquake").test) == expected
    prepare_task(TASK, TASK.Options(n_train=10), 0, 3, mirror_fetcher, tmp_path / "drawn")
    assert Counter(row["stratum"] for row in read_jsonl(tmp_path / "drawn" / "test.jsonl")) == expected


def test_test_prompt_that_occurs_twice_in_the_published_file_is_kept(splits) -> None:
    prompts = [row["prompt"] for row in splits("mquake").test]
    assert len(prompts) - len(set(prompts)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questions": []}, "field 'questions' must be a list"),
        ({"questions": [None]}, "field 'questions[0]' must be a non-empty string"),
        ({"requested_rewrite": ITEM["requested_rewrite"] * 2}, "expected one requested_rewrite, found 2"),
        ({"requested_rewrite": ["text"]}, "field 'prompt' must be"),
        ({"requested_rewrite": [{"prompt": "no slot", "subject": "A", "target_new": {"str": "B"}}]}, "needs one {}"),
        ({"requested_rewrite": [{"prompt": "{} is", "subject": "A", "target_new": "B"}]}, "field 'str' must be"),
        ({"new_answer": ""}, "field 'new_answer'"),
        ({"new_answer_alias": "Sverige"}, "field 'new_answer_alias' must be a list"),
        ({"case_id": "7"}, "field 'case_id' must be an integer"),
    ],
)
def test_malformed_items_are_named_in_one_line(file_fetcher, tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in (ITEM, ITEM | change)))
    with pytest.raises(TaskError) as caught:
        TASK.prepare(TASK.Options(), 0, 0, file_fetcher({"train.jsonl": path}))
    assert str(caught.value).startswith("train.jsonl row 1: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_subject_with_braces_is_filled_literally() -> None:
    from lofit.tasks.mquake.prepare import render

    rewrite = ITEM["requested_rewrite"][0] | {"subject": "{x}"}
    assert render(ITEM | {"requested_rewrite": [rewrite]}, " ", "row")["prompt"] == (
        "Q: Imagine that {x} is a citizen of Sweden. Where is Ann from? A:"
    )


OUTPUTS = [" Sweden", "Sweden", " sverige\nQ: more", " Sweden.", " Norway", "", "\n Sweden", " KÖLN", " is A: Sweden"]


@pytest.mark.parametrize(
    ("separator", "strict"), [(" ", [1, 0, 1, 0, 0, 0, 0, 1, 1]), ("", [0, 1, 0, 0, 0, 0, 0, 0, 0])]
)
def test_scores(score, separator: str, strict: list[int]) -> None:
    row = {"prompt": "Q: Where? A:", "answers": ["Sweden", "Sverige", "Köln"], "separator": separator}
    rows = [row | {"id": str(i)} for i in range(len(OUTPUTS))]
    means, items = score("mquake", rows, OUTPUTS)
    assert [item["exact_match"] for item in items] == [1, 1, 1, 0, 0, 0, 0, 1, 0]
    assert [item["exact_match_strict"] for item in items] == strict
    assert [item["span_match"] for item in items] == [1, 1, 1, 1, 0, 0, 1, 1, 0]
    assert means == pytest.approx({"exact_match": 4 / 9, "exact_match_strict": sum(strict) / 9, "span_match": 6 / 9})
    assert score.generation_kwargs["until"] == ["\n"] and score.generation_kwargs["max_gen_toks"] == 16


def test_training_targets_score_one_under_both_rules(score, splits) -> None:
    for glued in (False, True):
        rows = splits("mquake", compat_glued_answer=glued).validation[:20]
        means, _ = score("mquake", rows, [row["target"] for row in rows])
        assert means == {"exact_match": 1.0, "exact_match_strict": 1.0, "span_match": 1.0}
