"""Finding, loading and preparing tasks; the checks and draws every task goes through."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from lofit.errors import TaskError
from lofit.tasks import Splits, Task, TaskOptions, load_task, prepare_task, task_folder, task_names
from lofit.tasks.sizes import task_sizes
from lofit.tasks.splits import draw, normalised, similar_texts

NAMES = task_names()
NOT_MIRRORED = {"mmlu", "nq_open_mc", "triviaqa", "triviaqa_mc", "wikitext"}
"""Evaluation-only tasks whose data the mirror for development lacks; their own tests use rows in the hub's schema."""


def sft(row_id: str, prompt: str | None = None) -> dict:
    return {
        "id": row_id,
        "prompt": prompt or f"question {row_id}",
        "target": " x",
        "contrast": {"prompt": "question", "right": [" x"], "wrong": [" y"]},
        "answers": ["x"],
    }


def toy(train: list[dict], validation: list[dict], test: list[dict], **fields) -> Task:
    return Task(
        name="toy",
        summary="",
        objective=fields.pop("objective", "sft"),
        folds=(0,),
        headline="exact_match",
        licence="",
        Options=TaskOptions,
        prepare=lambda options, fold, seed, fetcher: Splits(train=train, validation=validation, test=test),
        **fields,
    )


@pytest.fixture
def write(tmp_path: Path, file_fetcher):
    """Prepare a task and read back what was written."""

    def run(task: Task, seed: int = 0, fold: int = 0, fetcher=None, **options) -> dict:
        out = tmp_path / "prepared"
        prepare_task(task, task.Options(**options), fold, seed, fetcher or file_fetcher(), out)
        files = {
            split: [json.loads(line) for line in (out / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
            for split in ("train", "validation", "test")
        }
        return files | {"manifest": json.loads((out / "manifest.json").read_text()), "folder": out}

    return run


def numbered(split: str, n: int) -> list[dict]:
    return [sft(f"{split}{i}") for i in range(n)]


def test_names_and_folders() -> None:
    assert set(task_sizes()) <= set(NAMES)
    for name in NAMES:
        assert (task_folder(name) / "task.yaml").is_file() != load_task(name).plain_text
        assert (task_folder(name) / "README.md").is_file()


def test_listing_and_loading_import_nothing_heavy() -> None:
    code = (
        "import sys; from lofit.tasks import task_names, load_task; [load_task(n) for n in task_names()]; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'pandas', 'lm_eval') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", NAMES)
def test_task_objects_are_consistent(name: str) -> None:
    task = load_task(name)
    assert task.name == name
    assert task.summary and task.licence
    if not task.plain_text:
        yaml = (task_folder(name) / "task.yaml").read_text()
        assert f"task: lofit_{name}\n" in yaml
        assert f"metric: {task.headline}\n" in yaml
    with pytest.raises(ValidationError):
        task.Options(n_trian=3)


def test_unknown_task_and_fold_are_refused(write) -> None:
    with pytest.raises(TaskError, match=r"unknown task 'clutr'; known tasks: aqua, arc_challenge"):
        load_task("clutr")
    with pytest.raises(TaskError, match="no fold 1"):
        write(toy(numbered("a", 1), numbered("b", 1), numbered("c", 1)), fold=1)


def test_draw_is_random_sample_in_drawn_order() -> None:
    drawn = draw([{}] * 3151, 300, 42, set(), what="")
    assert drawn.indices[:5] == [2619, 456, 102, 3037, 1126]
    assert drawn.indices == random.Random(42).sample(range(3151), 300)


def test_draw_replaces_banned_rows_in_place() -> None:
    plain = draw([{}] * 50, 20, 7, set(), what="").indices
    banned = {plain[3], plain[11]}
    drawn = draw([{}] * 50, 20, 7, banned, what="")
    assert [i for i in range(20) if drawn.indices[i] != plain[i]] == [3, 11]
    assert len(set(drawn.indices)) == 20
    assert not banned & set(drawn.indices)
    assert drawn.excluded == sorted(banned)


def test_subsets(write) -> None:
    task = toy(numbered("a", 40), numbered("b", 30), numbered("c", 60))
    zero = write(task, seed=0, n_train=10, n_validation=5, n_test=20)
    assert [row["id"] for row in zero["train"]] == [f"a{i}" for i in random.Random(0).sample(range(40), 10)]
    assert [row["id"] for row in zero["validation"]] == [f"b{i}" for i in random.Random(0).sample(range(30), 5)]
    assert [row["id"] for row in zero["test"]] == [f"c{i}" for i in sorted(random.Random(0).sample(range(60), 20))]
    one = write(task, seed=1, n_train=10, n_validation=5, n_test=20)
    assert one["test"] == zero["test"]
    assert one["train"] != zero["train"] and one["validation"] != zero["validation"]
    assert one["manifest"]["indices"]["train"] == random.Random(1).sample(range(40), 10)


def test_everything_in_file_order_without_sizes(write) -> None:
    train = numbered("a", 12)
    assert write(toy(train, numbered("b", 1), numbered("c", 1)), seed=5)["train"] == train


def test_manifest(write, file_fetcher) -> None:
    fetcher = file_fetcher()
    fetcher.provenance.append({"kind": "file", "origin": "of another task"})

    def prepare(options, fold, seed, fetcher):
        fetcher.provenance.append({"kind": "file", "origin": "ours"})
        return Splits(train=numbered("a", 4), validation=numbered("b", 3), test=[sft("ü", "Ünïcode")])

    out = write(replace(toy([], [], []), prepare=prepare), seed=3, fetcher=fetcher, n_train=2)
    manifest = out["manifest"]
    assert manifest["provenance"] == [{"kind": "file", "origin": "ours"}]
    assert manifest["counts"]["train"] == {"available": 4, "kept": 2}
    assert (manifest["task"], manifest["fold"], manifest["seed"]) == ("toy", 0, 3)
    assert manifest["options"] == {"n_train": 2, "n_validation": None, "n_test": None, "overlap": "refuse"}
    for split, digest in manifest["sha256"].items():
        assert hashlib.sha256((out["folder"] / f"{split}.jsonl").read_bytes()).hexdigest() == digest
    assert out["test"][0]["prompt"] == "Ünïcode"


def test_too_many_rows_asked_for(write) -> None:
    task = toy(numbered("a", 4), numbered("b", 3), numbered("c", 2))
    for option, available in (("n_train", 4), ("n_validation", 3), ("n_test", 2)):
        with pytest.raises(TaskError, match=f"task toy, {option}: 9 rows asked for, {available} available"):
            write(task, **{option: 9})


@pytest.mark.parametrize("later", ["validation", "test"])
def test_overlap_with_train(write, later: str) -> None:
    splits = {"train": numbered("a", 6), "validation": numbered("b", 3), "test": numbered("c", 3)}
    splits[later][1] = sft("leak", "  Question\tA2 ")
    task = toy(**splits)
    with pytest.raises(TaskError, match=r"1 train rows share their prompt with a later split \(first: id 'a2'\)"):
        write(task)
    kept = write(task, overlap="keep")
    assert len(kept["train"]) == 6
    left = write(task, overlap="replace")
    assert [row["id"] for row in left["train"]] == ["a0", "a1", "a3", "a4", "a5"]
    assert left["manifest"]["excluded_for_overlap"] == {"train": ["a2"], "validation": [], "test": []}
    assert len(write(task, overlap="replace", n_train=5)["train"]) == 5
    with pytest.raises(TaskError, match="6 rows asked for, 5 available"):
        write(task, overlap="replace", n_train=6)


def test_overlap_of_validation_with_test(write) -> None:
    task = toy(numbered("a", 2), [*numbered("b", 2), sft("v", "question c0")], numbered("c", 3))
    with pytest.raises(TaskError, match="1 validation rows share their prompt"):
        write(task)
    assert [row["id"] for row in write(task, overlap="replace")["validation"]] == ["b0", "b1"]


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        ("train", {"target": ""}, "train row 0: field 'target' must be a non-empty string"),
        ("train", {"target": 7}, "train row 0: field 'target' must be a non-empty string, found 7"),
        ("validation", {"target": None}, "validation row 0: field 'target'"),
        ("validation", {"answers": []}, "validation row 0: field 'answers' must be a list"),
        ("test", {"answers": ["a", " "]}, "test row 0: 'answers' must be non-empty strings"),
        ("test", {"prompt": None}, "test row 0: field 'prompt'"),
        ("test", {"choices": ["a", "b"], "gold": 2}, "test row 0: 'gold' must be the index of one of 2 choices"),
        ("test", {"choices": ["a", ""], "gold": 0}, "test row 0: 'choices' must be non-empty strings"),
        ("test", {"choices": ["a", "b"], "labels": [0, 1]}, "test row 0: 'labels' must hold"),
        ("test", {"choices": ["a", "b"], "labels": [1]}, "test row 0: 'labels' must hold"),
        ("test", {"choices": ["a", "b"], "labels": [1, 1]}, "test row 0: 'labels' must hold"),
        ("test", {"id": "a0"}, "test row 0: id 'a0' is used twice"),
        ("test", {"id": None}, "test row 0: field 'id'"),
        ("test", {"of": " "}, "test row 0: field 'of' must be a non-empty string"),
        ("test", {"stratum": ""}, "test row 0: field 'stratum' must be a non-empty string"),
        ("validation", {"of": 3}, "validation row 0: field 'of' must be a non-empty string"),
    ],
)
def test_malformed_rows_are_named_in_one_line(write, split: str, change: dict, message: str) -> None:
    rows = {"train": [sft("a0")], "validation": [sft("b0") | {"of": "x"}], "test": [sft("c0") | {"of": "x"}]}
    rows[split][0] = rows[split][0] | change
    with pytest.raises(TaskError) as caught:
        write(toy(**rows, cluster_key="of"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_preference_rows_need_two_answers(write) -> None:
    row = {"train_prompt": "q", "chosen": " a", "rejected": " a"}
    task = toy([sft("a0") | row], [sft("b0") | row | {"rejected": " b"}], [sft("c0")], objective="dpo")
    with pytest.raises(TaskError, match="'chosen' and 'rejected' are the same text"):
        write(task)


def test_empty_splits_are_refused_and_leave_nothing(write, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="the test split is empty"):
        write(toy(numbered("a", 2), numbered("b", 2), []))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_MIRRORED])
def test_real_splits_are_disjoint_complete_and_repeatable(name: str, write, mirror_fetcher) -> None:
    task = load_task(name)
    for fold in task.folds:
        out = write(task, seed=42, fold=fold, fetcher=mirror_fetcher)
        keys = {
            split: {" ".join(row[task.overlap_key].lower().split()) for row in out[split]}
            for split in ("train", "validation", "test")
        }
        assert not keys["train"] & (keys["validation"] | keys["test"])
        assert not keys["validation"] & keys["test"]
        assert max(Counter(row["id"] for s in keys for row in out[s]).values()) == 1
        again = write(task, seed=42, fold=fold, fetcher=mirror_fetcher)
        assert again["manifest"]["sha256"] == out["manifest"]["sha256"]
        evaluation = set(out["test"][0])
        assert all(evaluation <= set(row) for row in out["validation"])
        assert bool(out["train"]) == bool(task.objective)


def test_dependent_items_share_the_overlap_key_unless_a_task_says_otherwise() -> None:
    assert toy([], [], []).cluster_field == "prompt"
    assert toy([], [], [], overlap_key="question").cluster_field == "question"
    assert toy([], [], [], overlap_key="question", cluster_key="passage").cluster_field == "passage"


@pytest.mark.parametrize(
    ("name", "n_items", "n_clusters", "largest"),
    [
        ("boolq", 2289, 2129, 5),
        ("clutrr", 450, 441, 2),
        ("mquake", 864, 501, 49),
        ("siqa", 1173, 1167, 2),
        ("svamp", 300, 176, 9),
        ("winogrande", 761, 587, 2),
        ("gsm8k", 1319, 1319, 1),
    ],
)
def test_clusters_of_real_test_items(splits, name: str, n_items: int, n_clusters: int, largest: int) -> None:
    sizes = Counter(normalised(row[load_task(name).cluster_field]) for row in splits(name).test)
    assert (sizes.total(), len(sizes), max(sizes.values())) == (n_items, n_clusters, largest)


def test_similar_texts_are_named_by_the_first() -> None:
    cat, bed, other = "The cat left the bed at 7 .", "the cat  left the sofa at 19.5 .", "The cat ate all of it ."
    assert similar_texts([cat, other, bed], "aaa") == [cat, other, cat]
    assert similar_texts([cat, other, bed], "aab") == [cat, other, bed]
    assert similar_texts([], []) == []


def test_similar_texts_are_joined_by_chains() -> None:
    """The last text is near to both others, which are not near to each other."""
    ends, between = ("a b c d e f g h i j", "a b c d e v w x y z"), "a b c d e f g h y z"
    assert similar_texts(ends, "aa") == list(ends)
    assert similar_texts([*ends, between], "aaa") == [ends[0]] * 3


@pytest.mark.parametrize(
    ("contrast", "message"),
    [
        (None, "contrast: field 'prompt' must be"),
        ({"prompt": "q", "right": [], "wrong": ["b"]}, "contrast: field 'right' must be a list"),
        ({"prompt": "q", "right": ["a"], "wrong": [" "]}, "contrast: 'wrong' must be non-empty strings"),
        ({"prompt": "q", "right": ["a", "b"], "wrong": ["b"]}, "contrast: 'b' is both right and wrong"),
    ],
)
def test_right_and_wrong_answers_are_checked(write, contrast: dict | None, message: str) -> None:
    row = sft("a0") | {"contrast": contrast}
    with pytest.raises(TaskError) as caught:
        write(toy([row], [sft("b0")], [sft("c0")]))
    assert f"train row 0, {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("mquake", 1, 1),
        ("clutrr", 1, 1),
        ("siqa", 1, 2),
        ("listops", 1, 1),
    ],
)
def test_contrasts_hold_the_target_and_as_many_wrong_answers_as_documented(splits, name, right, wrong) -> None:
    made = splits(name)
    for row in [*made.train, *made.validation]:
        contrast = row["contrast"]
        assert contrast["prompt"] == row["prompt"]
        assert contrast["right"] == [row["target"]]
        assert len(contrast["right"]) == right
        assert 1 <= len(contrast["wrong"]) <= wrong
    assert [row["contrast"] for row in splits(name).train] == [row["contrast"] for row in made.train]


def test_truthfulqa_contrasts_are_the_probe_set_of_iti(splits) -> None:
    for row in splits("truthfulqa").train:
        contrast = row["contrast"]
        assert contrast["prompt"] == f"Q: {row['question']} A:"
        assert row["chosen"] in contrast["right"]
        assert not set(contrast["right"]) & set(contrast["wrong"])
