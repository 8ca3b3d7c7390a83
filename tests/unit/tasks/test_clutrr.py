"""CLUTRR: rendering, sizes, the paper's subset, scores."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from lofit.errors import TaskError
from lofit.tasks import load_task, prepare_task
from lofit.tasks.clutrr.prepare import render, unnamed

TASK = load_task("clutrr")
AFTER_STORY = (
    " Assume the relations described in the story are all true. Based on relations between the fictional characters in "
    "the story (assume the relations are all true) and your commonsense knowledge about family relationship, "
)
ITEM = {"id": "x", "clean_story": "[A] has a son, [B].", "query": "('A', 'B')", "target_text": "son"}


@pytest.mark.parametrize(
    ("split", "index", "story", "first", "second", "target"),
    [
        (
            "train",
            0,
            "Herman asked his son, James, to go grocery shopping for him. "
            "James was busy and sent his wife, Rosalee, instead.",
            "Herman",
            "Rosalee",
            "daughter-in-law",
        ),
        (
            "train",
            2619,
            "Herman and his sister Martha were wrapping gifts for Christmas. "
            "Herman's daughter Rosalee desperately wanted to join them.",
            "Martha",
            "Rosalee",
            "niece",
        ),
        (
            "test",
            449,
            "Constance took her daughter, Regina, to lunch. Roy liked to play catch with his daughter Constance.",
            "Regina",
            "Roy",
            "grandfather",
        ),
    ],
)
def test_golden_rows(splits, split: str, index: int, story: str, first: str, second: str, target: str) -> None:
    head = f'Read the following story about a family. "{story}"{AFTER_STORY}'
    row = getattr(splits("clutrr"), split)[index]
    assert row["prompt"] == head + f"how is {second} related to {first}? Answer: {second} is {first} 's\n"
    assert (row["target"], row["answers"]) == (target, [target])
    double = getattr(splits("clutrr", compat_double_space=True), split)[index]
    assert double["prompt"] == head + f"how is  {second} related to {first}? Answer:  {second} is {first} 's\n"
    assert double["target"] == target


def test_items_are_dependent_by_their_story_whatever_the_names(splits) -> None:
    stories = [unnamed(f"[{a}] has a son, [{b}]. [{b}]'s wife left.") for a, b in (("Al", "Bo"), ("Bo", "Al"))]
    assert stories == ["[0] has a son, [1]. [1]'s wife left."] * 2
    assert splits("clutrr").test[449]["story"] == (
        "[0] took her daughter, [1], to lunch. [2] liked to play catch with his daughter [0]."
    )


@pytest.mark.parametrize(
    ("relation", "story", "stratum"),
    [
        ("son", "[A] has a Son, [B].", "answer is in the story"),
        ("son", "[A]'s grandson is her son-in-law's person.", "answer is not in the story"),
        ("son-in-law", "[A]'s son-in-law, [B], left.", "answer is in the story"),
    ],
)
def test_strata_tell_whether_the_answer_is_a_word_of_the_story(relation: str, story: str, stratum: str) -> None:
    assert render(ITEM | {"clean_story": story, "target_text": relation}, False, "row")["stratum"] == stratum


def test_strata_of_the_published_items(splits, data_mirror: Path) -> None:
    counted = Counter(row["stratum"] for row in splits("clutrr").test)
    assert counted == {"answer is in the story": 124, "answer is not in the story": 326}
    files = (data_mirror / "lofit-paper-splits" / "clutrr" / f"{split}.json" for split in ("train", "test"))
    train, test = (Counter(item["f_comb"] for item in json.loads(file.read_text())) for file in files)
    assert len(test) == 62 and min(train[pair] for pair in test) == 50, "no composition is unseen"


def test_sizes_and_relations(splits) -> None:
    made = splits("clutrr")
    assert (len(made.train), len(made.validation), len(made.test)) == (3151, 450, 450)
    assert len({row["target"] for row in made.train}) == 18


def test_overlap_of_the_published_files(mirror_fetcher, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="13 train rows share their prompt"):
        prepare_task(TASK, TASK.Options(overlap="refuse"), 0, 42, mirror_fetcher, tmp_path / "refused")
    prepare_task(TASK, TASK.Options(), 0, 42, mirror_fetcher, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {split: count["kept"] for split, count in manifest["counts"].items()} == {
        "train": 3138,
        "validation": 449,
        "test": 450,
    }


def test_the_papers_300(mirror_fetcher, tmp_path: Path) -> None:
    indices = {}
    for overlap in ("keep", "replace"):
        prepare_task(TASK, TASK.Options(n_train=300, overlap=overlap), 0, 42, mirror_fetcher, tmp_path / overlap)
        indices[overlap] = json.loads((tmp_path / overlap / "manifest.json").read_text())["indices"]["train"]
    assert indices["keep"][:5] == indices["replace"][:5] == [2619, 456, 102, 3037, 1126]
    changed = [old for old, new in zip(indices["keep"], indices["replace"], strict=True) if old != new]
    assert sorted(changed) == [284, 322]


def test_stories_under_other_names_are_left_out_on_demand(mirror_fetcher, tmp_path: Path) -> None:
    shared = {}
    for overlap in ("replace", "replace_stories"):
        options = TASK.Options(n_train=300, overlap=overlap)
        prepare_task(options.configured(TASK), options, 0, 42, mirror_fetcher, tmp_path / overlap)
        train, test = (
            [json.loads(line)["story"].casefold() for line in (tmp_path / overlap / f"{split}.jsonl").open()]
            for split in ("train", "test")
        )
        shared[overlap] = sum(story in train for story in test)
    assert shared == {"replace": 20, "replace_stories": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": "A, B"}, "field 'query' must look like ('A', 'B')"),
        ({"query": None}, "field 'query' must be a non-empty string"),
        ({"clean_story": " "}, "field 'clean_story'"),
        ({"target_text": 9}, "field 'target_text'"),
        ({"id": None}, "field 'id'"),
    ],
)
def test_malformed_items_are_named_in_one_line(file_fetcher, tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps([ITEM, ITEM | change]))
    with pytest.raises(TaskError) as caught:
        TASK.prepare(TASK.Options(), 0, 0, file_fetcher({"train.json": path}))
    assert str(caught.value).startswith("train.json row 1: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [("[{", "not valid JSON"), ("{}", "expected a JSON array")])
def test_broken_files(file_fetcher, tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "train.json"
    path.write_text(content)
    with pytest.raises(TaskError, match=message):
        TASK.prepare(TASK.Options(), 0, 0, file_fetcher({"train.json": path}))


METRICS = ("exact_match", "exact_match_strict", "span_match")


@pytest.mark.parametrize(
    ("output", "mother", "in_law"),
    [
        ("mother-in-law of A", 0, 1),
        ("Mother in law", 0, 1),
        ("mother", 1, 0),
        ("mother in the house", 1, 0),
    ],
)
def test_relations_by_marriage_are_not_those_by_birth(score, output: str, mother: float, in_law: float) -> None:
    rows = [{"id": gold, "prompt": "A is B 's\n", "answers": [gold]} for gold in ("mother", "mother-in-law")]
    _, items = score("clutrr", rows, [output] * 2)
    assert [item["span_match"] for item in items] == [mother, in_law]


def test_scores(score) -> None:
    cases = {  # output: (first line, the authors' rule, first span)
        "niece": (1, 1, 1),
        " Niece ": (1, 1, 1),
        "niece. She is nice": (1, 1, 1),
        "niece\nRead the following": (1, 0, 1),
        "niece\n. more": (1, 1, 1),
        "\nniece": (0, 1, 1),
        "niece's\nmore": (0, 1, 0),
        "the niece": (0, 0, 1),
        "nephew": (0, 0, 0),
        "": (0, 0, 0),
        "nièce": (0, 0, 0),
    }
    rows = [{"id": str(i), "prompt": "A is B 's\n", "answers": ["niece"]} for i in range(len(cases))]
    means, items = score("clutrr", rows, list(cases))
    assert [tuple(item[name] for name in METRICS) for item in items] == list(cases.values())
    assert means == pytest.approx(dict(zip(METRICS, (5 / 11, 6 / 11, 7 / 11), strict=True)))
    assert score.generation_kwargs["until"] == [] and score.generation_kwargs["max_gen_toks"] == 16


def test_line_break_stays_in_the_prompt_and_targets_score_one(score, splits) -> None:
    rows = splits("clutrr").validation[:20]
    assert all(row["prompt"].endswith("'s\n") and "\n" not in row["prompt"][:-1] for row in rows)
    means, _ = score("clutrr", rows, [row["target"] for row in rows])
    assert means == dict.fromkeys(METRICS, 1.0)


def test_hugging_face_models_generate_past_line_breaks() -> None:
    """An empty ``until`` stops at the end-of-sequence token only, which the authors' rule needs."""
    import torch
    import yaml
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from lofit.tasks import task_folder
    from tests.tiny import VOCABULARY, tiny_model

    # one character per token, and a model that writes line breaks only
    words = ["<pad>", "<bos>", "<eos>", "\n", *(chr(0x100 + i) for i in range(VOCABULARY - 4))]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[])),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    model.lm_head.bias = torch.nn.Parameter(torch.nn.functional.one_hot(torch.tensor(3), VOCABULARY).float())
    yaml_text = (task_folder("clutrr") / "task.yaml").read_text().replace("!function ", "")
    kwargs = yaml.safe_load(yaml_text)["generation_kwargs"]
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, backend="causal")
    request = Instance(request_type="generate_until", doc={}, arguments=("\u0101\u0102", kwargs), idx=0)
    (output,) = lm.generate_until([request], disable_tqdm=True)
    assert output.count("\n") == 16 and not output.strip()
