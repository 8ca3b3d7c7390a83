"""Tasks of the user's own: what a folder or a YAML file must hold, and what is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from lofit.config import parse_config
from lofit.errors import ConfigError, TaskError
from lofit.evaluation.harness import RowsTask
from lofit.files import write_jsonl
from lofit.plan.kinds import PREPARE
from lofit.plan.table import RunTable
from lofit.tasks import Task, lm_eval_config, load_task, prepare_task
from lofit.tasks.custom import custom_task
from lofit.tasks.custom.table import SUFFIXES, Description
from lofit.tasks.splits import check_splits

SUMS = [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(20)]
COLOURS = [{"prompt": f"Grass {i} is", "choices": ["green", "red", "blue"], "gold": 0} for i in range(20)]
PAIRS = [{"prompt": f"Q: {i}?\nA:", "chosen": "Yes.", "rejected": "No."} for i in range(20)]
KINDS = {"sums": SUMS, "colours": COLOURS, "pairs": PAIRS}


def folder(path: Path, rows: list[dict[str, Any]], n_test: int = 5) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    write_jsonl(path / "train.jsonl", rows[n_test:])
    write_jsonl(path / "test.jsonl", rows[:n_test])
    return path


def splits(task: Task, file_fetcher: Any) -> Any:
    made = task.prepare(task.Options(), 0, 0, file_fetcher())
    check_splits(task, made)
    return made


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_recognised_by_its_fields(name: str, tmp_path: Path, file_fetcher: Any) -> None:
    task = custom_task(name, folder(tmp_path / name, KINDS[name]))
    made = splits(task, file_fetcher)
    assert (task.objective, task.headline) == {
        "sums": ("sft", "exact_match"),
        "colours": ("sft", "acc"),
        "pairs": ("dpo", "acc"),
    }[name]
    assert len(made.test) == 5
    assert len(made.train) + len(made.validation) == 15
    assert 1 <= len(made.validation) <= 2


def test_rows_as_they_are_used(tmp_path: Path, file_fetcher: Any) -> None:
    made = {
        name: splits(custom_task(name, folder(tmp_path / name, rows)), file_fetcher) for name, rows in KINDS.items()
    }
    sums, colours, pairs = (made[name].test[1] for name in KINDS)
    assert (sums["prompt"], sums["target"], sums["answers"]) == ("1+1=", " 2", ["2"])
    contrasted = splits(custom_task("sums", tmp_path / "sums"), file_fetcher).train[0]
    assert contrasted["contrast"]["right"] == [contrasted["target"]]
    assert len(set(contrasted["contrast"]["wrong"])) == 3
    assert contrasted["target"] not in contrasted["contrast"]["wrong"]
    assert colours["target"] == " green"
    assert colours["choices"] == [" green", " red", " blue"]
    assert colours["contrast"] == {"prompt": "Grass 1 is", "right": [" green"], "wrong": [" red", " blue"]}
    assert (pairs["train_prompt"], pairs["chosen"], pairs["rejected"]) == ("Q: 1?\nA:", " Yes.", " No.")
    assert (pairs["choices"], pairs["gold"]) == ([" Yes.", " No."], 0)


@pytest.mark.parametrize(("prompt", "answer", "target"), [("a:\n", "b", "b"), ("a:", "b", " b"), ("a:", "\tb", "\tb")])
def test_one_blank_unless_the_text_brings_its_own(
    prompt: str, answer: str, target: str, tmp_path: Path, file_fetcher: Any
) -> None:
    rows = [{"prompt": f"{i}{prompt}", "answer": answer, "wrong": ["x"]} for i in range(12)]
    assert splits(custom_task("t", folder(tmp_path / "t", rows)), file_fetcher).test[0]["target"] == target


def test_a_yaml_file_names_the_files_and_how_long_an_answer_is(tmp_path: Path, file_fetcher: Any) -> None:
    folder(tmp_path / "data", SUMS)
    held_out = {"prompt": "100+1=", "answers": ["101", "one hundred and one"], "wrong": ["11"]}
    write_jsonl(tmp_path / "data" / "held_out.jsonl", [held_out])
    file = tmp_path / "task.yaml"
    about = {"train": "data/train.jsonl", "validation": "data/held_out.jsonl", "test": "data/test.jsonl"}
    file.write_text(yaml.safe_dump(about | {"max_gen_toks": 5, "licence": "CC0", "until": [";"]}))
    task = load_task("sums", file)
    made = splits(task, file_fetcher)
    assert [row["answers"] for row in made.validation] == [["101", "one hundred and one"]]
    assert len(made.train) == 15
    assert task.licence == "CC0"
    assert task.overrides["generation_kwargs"] == {"until": [";"], "max_gen_toks": 5, "do_sample": False}


def test_a_task_is_prepared_again_after_a_change_of_what_its_file_says_of_rows(tmp_path: Path) -> None:
    data_file(tmp_path / "reviews.csv", REVIEWS)

    def triggers(**changes: Any) -> Any:
        (tmp_path / "task.yaml").write_text(yaml.safe_dump({"train": "reviews.csv", **READ, **changes}))
        tasks = {"r": {"path": str(tmp_path / "task.yaml")}}
        table = RunTable(parse_config({"models": "smollm2-135m", "methods": {"base": None}, "tasks": tasks}))
        [data] = table.data.values()
        return PREPARE.triggers(table, data)

    before = triggers()
    for changes in ({"split_seed": 3}, {"prompt": "{text}!"}, {"test_share": 0.5}):
        assert triggers(**changes) != before
    assert triggers(licence="CC BY 4.0", until=["."], max_gen_toks=5) == before


def test_prepared_as_any_task(tmp_path: Path, file_fetcher: Any) -> None:
    task = custom_task("sums", folder(tmp_path / "sums", SUMS))
    prepare_task(task, task.Options(n_train=6), 0, 1, file_fetcher(), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["counts"]["train"]["kept"] == 6
    assert {entry["kind"] for entry in manifest["provenance"]} == {"own"}


def test_rows_may_name_what_they_share_and_of_what_kind_they_are(tmp_path: Path, file_fetcher: Any) -> None:
    rows = [row | {"cluster": f"page {i // 2}"} for i, row in enumerate(COLOURS)]
    rows[2]["stratum"] = "moss"
    rows[1].pop("cluster")
    task = custom_task("colours", folder(tmp_path / "colours", rows))
    assert task.stratified, "though the first row names none"
    test = splits(task, file_fetcher).test
    assert [row.get("stratum") for row in test] == [None, None, "moss", None, None]
    found = [row[task.cluster_field] for row in test]
    assert found == ["page 0", "Grass 1 is", "page 1", "page 1", "page 2"]
    write_jsonl(tmp_path / "colours" / "test.jsonl", [rows[0] | {"cluster": 7}])
    with pytest.raises(TaskError, match=r"test.jsonl row 1: field 'cluster' must be a non-empty string, found 7"):
        splits(task, file_fetcher)


def test_scores(tmp_path: Path, score: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = custom_task("sums", folder(tmp_path / "sums", SUMS))
    monkeypatch.setattr("tests.unit.tasks.conftest.load_task", lambda name: task)
    rows = [{"id": str(i), "prompt": "1+1=", "answers": ["2", "Zwei"]} for i in range(5)]
    _, items = score("sums", rows, ["2", " zwei ", "2 apples", "", "zwéi"])
    assert [item["exact_match"] for item in items] == [1, 1, 0, 0, 0]


def test_blanks_at_the_end_of_a_prompt_begin_the_answer(tmp_path: Path, file_fetcher: Any) -> None:
    rows = [{"prompt": f"{i}: ", "answer": str(i), "wrong": ["x", " y"]} for i in range(12)]
    row = splits(custom_task("t", folder(tmp_path / "t", rows)), file_fetcher).train[0]
    [answer] = row["answers"]
    assert (row["prompt"], row["target"]) == (f"{answer}:", f" {answer}")
    assert row["contrast"] == {"prompt": row["prompt"], "right": [row["target"]], "wrong": [" x", " y"]}


def test_test_rows_need_no_wrong_answers(tmp_path: Path, file_fetcher: Any) -> None:
    made = splits(custom_task("t", folder(tmp_path / "t", SUMS, n_test=1)), file_fetcher)
    assert "contrast" not in made.test[0]
    wrong = {text for row in made.train for text in row["contrast"]["wrong"]}
    assert " 0" not in wrong, "an answer of the test split"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "a"}], "needs prompt and answer, or prompt, choices and gold"),
        ([{"prompt": "a", "answer": ""}] * 2, "field 'answer' must be a non-empty string"),
        ([{"prompt": "a", "choices": ["x"], "gold": 0}] * 2, "'choices' must be two or more different texts"),
        ([{"prompt": "a", "choices": ["x", "y"], "gold": 2}] * 2, "'gold' must be the index of one of 2 choices"),
        ([{"prompt": "a", "choices": ["x", "y"], "gold": True}] * 2, "'gold' must be the index"),
        ([{"prompt": "a", "answers": ["x", 3]}] * 2, "'answers' must be non-empty strings"),
        ([{"prompt": "a", "answer": "x", "wrong": ["y", 3]}] * 2, "'wrong' must be non-empty strings"),
        ([{"prompt": "a", "answer": "x", "wrong": [""]}] * 2, "'wrong' must be non-empty strings"),
        ([{"prompt": "a", "answer": "x"}] * 2, "no other row has another answer; name wrong ones under 'wrong'"),
        ([{"prompt": "a", "chosen": "x", "rejected": None}] * 2, "field 'rejected'"),
        ([{"prompt": "a", "chosen": "x", "rejected": " x "}] * 2, "'chosen' and 'rejected' are the same text"),
        ([{"prompt": "a", "choices": ["x", " x", "x\u00a0"], "gold": 2}] * 2, "two or more different texts"),
        ([{"prompt": "a", "choices": ["cafe\u0301", "caf\u00e9"], "gold": 0}] * 2, "two or more different texts"),
        (
            [{"prompt": "a", "answer": "x\ny", "wrong": ["z"]}] * 2,
            "no output can match 'x\\ny', since generation stops",
        ),
        ([{"prompt": "a", "answers": ["\nx"], "wrong": ["z"]}] * 2, "(until, in the task's YAML file)"),
    ],
)
def test_broken_rows_are_one_line(rows: list[dict[str, Any]], message: str, tmp_path: Path, file_fetcher: Any) -> None:
    path = folder(tmp_path / "t", rows, n_test=len(rows) - 1)
    with pytest.raises(TaskError) as caught:
        splits(custom_task("t", path), file_fetcher)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fault_in_test_rows_alone_is_found_too(tmp_path: Path, file_fetcher: Any) -> None:
    for name, rows, change in (
        ("sums", SUMS, {"answer": "one\ntwo"}),
        ("colours", COLOURS, {"choices": ["red", "red"]}),
        ("pairs", PAIRS, {"rejected": "Yes. "}),
    ):
        path = folder(tmp_path / name, [rows[0] | change, *rows[1:]], n_test=1)
        with pytest.raises(TaskError, match=r"test\.jsonl row 1"):
            splits(custom_task(name, path), file_fetcher)


def test_a_right_choice_that_is_repeated_is_no_wrong_one(tmp_path: Path, file_fetcher: Any) -> None:
    rows = [{"prompt": f"{i}:", "choices": ["x", "y", "x\u00a0"], "gold": 2} for i in range(12)]
    made = splits(custom_task("t", folder(tmp_path / "t", rows)), file_fetcher)
    assert made.train[0]["contrast"]["wrong"] == [" y"]


def test_an_answer_that_only_ends_with_a_stop_string_can_match(tmp_path: Path, file_fetcher: Any) -> None:
    rows = [{"prompt": f"{i}:", "answers": [f"{i}\n", "two\nlines"], "wrong": ["x"]} for i in range(12)]
    assert len(splits(custom_task("t", folder(tmp_path / "t", rows)), file_fetcher).test) == 5


LIKE_OTHER_TYPES = ["2020-01-01", "2020-01-01T10:00:00", "7", "true", "null", "1e5", "[1, 2]", "{}"]


@pytest.mark.parametrize("text", LIKE_OTHER_TYPES)
def test_text_stays_text_whatever_it_looks_like(text: str, tmp_path: Path, file_fetcher: Any) -> None:
    for prompt in ("When?", f"{text}\n", text):
        generated = {"prompt": prompt, "answer": text, "wrong": ["x"]}
        chosen = {"prompt": prompt, "choices": ["x", text], "gold": 1}
        for row, outputs in ((generated, [text]), (chosen, [(-2.0, False), (-1.0, False)])):
            rows = [row, row, *(row | {"prompt": f"{word} {prompt}"} for word in ("First", "then"))]
            task = custom_task("t", folder(tmp_path / "t", rows, n_test=2))
            made = splits(task, file_fetcher).test
            asked = RowsTask(lm_eval_config(task), {"test": made})
            doc = asked.test_docs()[0]
            assert (asked.doc_to_text(doc), {name: doc[name] for name in made[0]}) == (made[0]["prompt"], made[0])
            assert asked.process_results(doc, outputs)[task.headline] == 1


def test_forms_of_the_same_text_match(tmp_path: Path, score: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = custom_task("sums", folder(tmp_path / "sums", SUMS))
    monkeypatch.setattr("tests.unit.tasks.conftest.load_task", lambda name: task)
    rows = [{"id": str(i), "prompt": "?", "answers": ["It\u2019s caf\u00e9 noir"]} for i in range(4)]
    outputs = [
        "It's cafe\u0301 noir",
        "it\u2019s caf\u00e9\u00a0 n\u200boir\ufeff",
        "It's cafe noir",
        "It s caf\u00e9 noir",
    ]
    _, items = score("sums", rows, outputs)
    assert [item["exact_match"] for item in items] == [1, 1, 0, 0]


def test_forms_of_the_same_prompt_overlap(tmp_path: Path, file_fetcher: Any) -> None:
    rows = [*SUMS, {"prompt": "caf\u00e9 it\u2019s=", "answer": "x"}]
    write_jsonl(tmp_path / "test.jsonl", [{"prompt": "Cafe\u0301\u00a0\u200bit's\uff1d", "answer": "x"}])
    write_jsonl(tmp_path / "train.jsonl", rows)
    task = custom_task("t", tmp_path)
    with pytest.raises(TaskError, match=r"1 (train|validation) rows share their prompt"):
        prepare_task(task, task.Options(), 0, 0, file_fetcher(), tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("a: [", "not valid YAML"),
        ("until: 3", "until"),
        ("trian: x.jsonl", "trian: extra inputs are not permitted"),
        ("train: nowhere.jsonl", "no file"),
        ("max_gen_toks: true", "max_gen_toks"),
        ("max_gen_toks: '8'", "max_gen_toks"),
    ],
)
def test_broken_descriptions_are_one_line(text: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "task.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(TaskError, match=message) as caught:
        custom_task("t", file)
    assert "\n" not in str(caught.value)


# --- data files with named columns

REVIEWS = [
    {"text": f"It was {word}, {i} times.", "mood": mood, "product": f"p{i // 2}", "kind": ("long", "short")[i % 2]}
    for i, (word, mood) in enumerate([("grand", "positive"), ("dull", "negative"), ("so so", "neutral")] * 8)
]
BASE = {"models": "smollm2-135m", "methods": {"base": None}}
READ = {"prompt": "Review: {text}\nMood:", "label": "mood"}


def data_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The same rows in the format that a suffix stands for."""
    frame = pd.DataFrame(rows)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        write_jsonl(path, rows)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_columns_of_every_kind_of_file(suffix: str, tmp_path: Path, file_fetcher: Any) -> None:
    file = data_file(tmp_path / f"reviews{suffix}", REVIEWS)
    task = custom_task("reviews", file, Description(**READ, cluster="product", stratum="kind"))
    made = splits(task, file_fetcher)
    assert (task.objective, task.headline, task.stratified, task.files) == ("sft", "acc", True, (file,))
    assert [len(made.train), len(made.validation), len(made.test)] == [18, 2, 4]
    products = [{row["cluster"] for row in part} for part in (made.train, made.validation, made.test)]
    assert sum(map(len, products)) == len(set.union(*products)) == 12, "a product is in one split"
    rows = {row["prompt"]: row for row in [*made.train, *made.validation, *made.test]}
    assert set(rows) == {f"Review: {given['text']}\nMood:" for given in REVIEWS}
    for given in REVIEWS:
        row = rows[f"Review: {given['text']}\nMood:"]
        assert row["choices"] == [" negative", " neutral", " positive"]
        assert row["choices"][row["gold"]] == row["target"] == f" {given['mood']}"
        assert (row["cluster"], row["stratum"]) == (given["product"], given["kind"])


def test_the_draw_of_test_rows_has_a_seed_and_a_share(tmp_path: Path, file_fetcher: Any) -> None:
    file = data_file(tmp_path / "reviews.csv", REVIEWS)

    def drawn(**more: Any) -> list[str]:
        return [row["prompt"] for row in splits(custom_task("r", file, Description(**READ, **more)), file_fetcher).test]

    assert drawn() == drawn() != drawn(split_seed=1)
    assert len(drawn(test_share=0.5)) == 12
    held_out = data_file(tmp_path / "held_out.tsv", REVIEWS[:3])
    data_file(file, REVIEWS[3:])
    assert drawn(test=str(held_out)) == [f"Review: {row['text']}\nMood:" for row in REVIEWS[:3]]


def test_answers_are_columns_too_and_numbers_are_texts(tmp_path: Path, file_fetcher: Any) -> None:
    rows = [{"a": i, "sum of both": 2 * i} for i in range(20)]
    read = Description(prompt="{{x}} {a}+{a}=", answer="sum of both")
    made = splits(custom_task("sums", data_file(tmp_path / "sums.parquet", rows), read), file_fetcher)
    for row in [*made.train, *made.validation, *made.test]:
        number = int(row["prompt"].removeprefix("{x} ").split("+")[0])
        assert (row["target"], row["answers"]) == (f" {2 * number}", [str(2 * number)])
    plain = [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(20)]
    made = splits(custom_task("sums", data_file(tmp_path / "plain.csv", plain)), file_fetcher)
    assert len(made.train) + len(made.validation) + len(made.test) == 20


@pytest.mark.parametrize(
    ("content", "read", "message"),
    [
        ("text,mood\na,x\nb\n", READ, "reviews.csv row 2: not the 2 columns of the header"),
        ("text,mood\na,x\nb,y,z\n", READ, "reviews.csv row 2: not the 2 columns of the header"),
        ("text,text\na,x\n", READ, "two columns of its header have the same name"),
        ("text,feeling\na,x\n", READ, "reviews.csv row 1: no column 'mood'; it has: text, feeling"),
        ("text,mood\na,x\nb,\n", READ, "reviews.csv row 2: column 'mood' is empty"),
        ("text,mood\na,x\nb,y\n", READ | {"choices": ["x", "z"]}, "row 2: label 'y' is not among the choices x, z"),
        ('text,mood\na,"x\n', READ, "cannot be read as csv"),
        ('text\tmood\n"a\tx\nb\ty\nc"\tx\n', READ, "reviews.tsv row 1: a quotation mark joins cells"),
        ('[{"text": "a \\ud800", "mood": "x"}]', READ, "reviews.json: cannot be read as json"),
        ("[" * 100_000, READ, "reviews.json: cannot be read as json"),
        ('[{"text": "a", "mood": NaN}]', READ, "reviews.json row 1: column 'mood' is empty"),
        ("question,reply\na,x\n", {}, "row 1: needs prompt and answer, .*; found question, reply; or say what"),
    ],
)
def test_wrong_columns_are_one_line(
    content: str, read: dict[str, Any], message: str, tmp_path: Path, file_fetcher: Any
) -> None:
    suffix = "json" if content.startswith("[") else "tsv" if "\t" in content else "csv"
    file = tmp_path / f"reviews.{suffix}"
    file.write_text(content)
    with pytest.raises(TaskError, match=message):
        splits(custom_task("reviews", file, Description(**read)), file_fetcher)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        ({"prompt": "x {text}"}, "prompt belongs to an answer or a label"),
        ({"label": "mood"}, "prompt belongs to an answer or a label"),
        (READ | {"answer": "mood"}, "answer and label are given"),
        ({"prompt": "x {text}", "answer": "mood", "choices": ["a", "b"]}, "choices belong to a label"),
        ({"prompt": "x {text", "label": "mood"}, "double braces"),
        ({"prompt": "x {text!r}", "label": "mood"}, "without ! or :"),
        ({"prompt": "x {text:>9}", "label": "mood"}, "without ! or :"),
        ({"prompt": "no column", "label": "mood"}, "names no column in braces"),
        ({"promt": "x {text}", "label": "mood"}, "unknown key 'promt'; did you mean 'prompt'"),
    ],
)
def test_wrong_descriptions_are_told_before_anything_is_read(
    read: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = data_file(tmp_path / "reviews.csv", REVIEWS)
    with pytest.raises(ConfigError, match=message):
        parse_config(
            {"models": "smollm2-135m", "methods": {"base": None}, "tasks": {"r": {"path": str(file), "read": read}}}
        )


def test_rows_that_a_prompt_and_a_cluster_join_stay_together(tmp_path: Path, file_fetcher: Any) -> None:
    """Here all of them: each shares a prompt with the one before, and a product with the one after."""
    rows = [{"text": f"{i // 2}", "mood": "ab"[i % 2], "product": (i + 1) // 2} for i in range(20)]
    file = data_file(tmp_path / "chain.csv", rows)
    with pytest.raises(TaskError, match="all rows share a prompt or a cluster, so none can be set aside; give a file"):
        splits(custom_task("r", file, Description(**READ, cluster="product")), file_fetcher)


@pytest.mark.parametrize("column", ["a.b", "0", "a[b]", "a b"])
def test_columns_may_have_any_name(column: str, tmp_path: Path, file_fetcher: Any) -> None:
    rows = [{column: f"{i}", "mood": "xy"[i % 2]} for i in range(20)]
    read = Description(prompt=f"{{{column}}} is", label="mood")
    made = splits(custom_task("r", data_file(tmp_path / "r.csv", rows), read), file_fetcher)
    assert {row["prompt"] for row in made.test} < {f"{i} is" for i in range(20)}


def test_columns_that_a_description_does_not_name_are_left_alone(tmp_path: Path, file_fetcher: Any) -> None:
    rows = [{"text": f"{i}", "mood": "xy"[i % 2], "stratum": "s", "wrong": "w"} for i in range(20)]
    task = custom_task("r", data_file(tmp_path / "r.csv", rows), Description(prompt="{text}", answer="mood"))
    assert not task.stratified
    assert {text for row in splits(task, file_fetcher).train for text in row["contrast"]["wrong"]} == {" x", " y"}


def test_a_row_of_two_kinds_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "2+2", "choices": ["4", "5"], "gold": 0, "answer": "A"}] * 3
    with pytest.raises(TaskError, match=r"several kinds of tasks \(answer, choices, gold\); keep those of one"):
        custom_task("r", data_file(tmp_path / "r.jsonl", rows))


def test_attributes_of_columns_are_out_of_reach(tmp_path: Path, file_fetcher: Any) -> None:
    rows = [{"text": f"{i}", "mood": "x"} for i in range(20)]
    read = Description(prompt="{text.__class__}", label="mood")
    with pytest.raises(TaskError, match=r"no column 'text\.__class__'"):
        splits(custom_task("r", data_file(tmp_path / "r.csv", rows), read), file_fetcher)


def test_a_description_is_part_of_what_a_split_is(tmp_path: Path) -> None:
    file = data_file(tmp_path / "reviews.csv", REVIEWS)

    def node(**read: Any) -> Any:
        tasks = {"r": {"path": str(file), "read": READ | read}}
        [data] = RunTable(
            parse_config({"models": "smollm2-135m", "methods": {"base": None}, "tasks": tasks})
        ).data.values()
        return data

    assert node().id != node(split_seed=3).id
    assert node().id == node(licence="CC BY 4.0", summary="reviews").id, "which change nothing"
    assert node().identity["read"] == READ
