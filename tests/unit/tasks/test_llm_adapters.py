"""LLM-Adapters' prompts and scoring: its texts, the option that counts, the same items, fits and their scores."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lofit.config import parse_config
from lofit.errors import ConfigError
from lofit.evaluation.harness import evaluate
from lofit.files import read_json, read_jsonl, write_jsonl
from lofit.plan.kinds import EVALUATE, FETCH, PREPARE
from lofit.plan.table import MAIN, RunTable
from lofit.report.parts import collect_results
from lofit.report.paths import headline
from lofit.spec.protocol import HARNESS
from lofit.tasks import load_task
from tests.checkpoint import byte_tokenizer, save_checkpoint
from tests.fitted import fit, run_nodes, tiny_config, write_outputs
from tests.tiny import tiny_model

TASKS = ["arc_challenge", "boolq", "openbookqa", "siqa", "winogrande"]
FORMAT = {"format": "llm_adapters"}
SAME = [
    ("arc_challenge", "allenai/ai2_arc/ARC-Challenge", ["train"], "ARC-Challenge/train", 1119),
    ("arc_challenge", "allenai/ai2_arc/ARC-Challenge", ["test"], "ARC-Challenge/test", 1172),
    ("openbookqa", "allenai/openbookqa/main", ["train"], "openbookqa/train", 4957),
    ("openbookqa", "allenai/openbookqa/main", ["test"], "openbookqa/test", 500),
    # of these, the mirror holds the official validation split in two parts
    ("boolq", "google/boolq/default", ["train", "validation"], "boolq/test", 3270),
    ("siqa", "allenai/social_i_qa/default", ["train", "validation"], "social_i_qa/test", 1954),
    ("winogrande", "allenai/winogrande/winogrande_xl", ["train", "validation"], "winogrande/test", 1267),
]


def render(name: str, item: dict[str, Any], **options: Any) -> Any:
    return import_module(f"lofit.tasks.{name}.prepare").render(item, "row 3", load_task(name).Options(**options))


@pytest.mark.parametrize(("name", "hub", "parts", "file", "n"), SAME)
def test_texts_are_those_of_llm_adapters(
    name: str, hub: str, parts: list[str], file: str, n: int, data_mirror: Path
) -> None:
    theirs = data_mirror / "llm-adapters" / f"{file}.json"
    if not theirs.is_file():
        pytest.skip("files of LLM-Adapters: the mirror has no folder llm-adapters")
    items = [item for part in parts for item in read_jsonl(data_mirror / "hub" / hub / f"{part}.jsonl")]
    rows = [render(name, item, **FORMAT) for item in items]
    expected = json.loads(theirs.read_text(encoding="utf-8"))
    assert len(rows) == len(expected) == n
    for row, item in zip(rows, expected, strict=True):
        assert (row["prompt"], row["target"]) == (item["instruction"] + "\n", item["output"])
        assert row["answers"] == [item["output"]]
        assert item["answer"] in row["options"]


ARC = {"question": "Why?", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answerKey": "2"}


def test_small_rows() -> None:
    row = render("arc_challenge", ARC, **FORMAT)
    assert row["prompt"] == (
        "Please choose the correct answer to the question: Why?\n\nAnswer1: x Answer2: y Answer3: z\n\n"
        "Answer format: answer1/answer2/answer3\n"
    )
    assert row["target"] == "the correct answer is answer2"
    assert row["contrast"] == {
        "prompt": row["prompt"],
        "right": ["the correct answer is answer2"],
        "wrong": ["the correct answer is answer1", "the correct answer is answer3"],
    }
    boolq = render("boolq", {"question": "is it", "passage": "It is.", "answer": False}, **FORMAT)
    assert boolq["prompt"] == (
        "Please answer the following question with true or false, question: is it?\n\nAnswer format: true/false\n"
    )
    assert (boolq["target"], boolq["passage"]) == ("the correct answer is false", "It is.")
    assert boolq["contrast"]["wrong"] == ["the correct answer is true"]


def test_the_frame_is_alpacas() -> None:
    plain, framed = (render("arc_challenge", ARC, **FORMAT, frame=frame) for frame in (False, True))
    assert framed["prompt"] == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{plain['prompt']}\n### Response:\n"
    )
    assert (framed["target"], framed["contrast"]["prompt"]) == (plain["target"], framed["prompt"])


ANSWERS = [f"answer{number}" for number in range(1, 6)]
OUTPUTS = {
    "siqa": (
        ANSWERS,
        "answer2",
        {
            "the correct answer is answer2": 1,
            "the correct answer is answer1": 0,
            "": 0,
            "the correct answer is": 0,
            "\n\n## I think answer2, since Kai\nAnswer1: is late": 1,
            "the correct answer is Answer2": 0,
            "ANSWER1 answer2": 1,
            "answer2 or answer1": 1,
            "answer1, no, answer2": 0,
            "answer5, no, answer2": 0,  # of options that this question does not have, too
            "answer6, no, answer2": 1,
            "myanswer23": 1,
        },
    ),
    "arc_challenge": (ANSWERS, "answer5", {"answer5answer3": 1, "5": 0}),
    "openbookqa": (ANSWERS, "answer4", {" answer4 ": 1, "answer": 0}),
    "boolq": (
        ["true", "false"],
        "true",
        {"true": 1, "untrue": 1, "True": 0, "yes": 0, "falsehood, not truest": 0, "The answer is: true\n": 1},
    ),
    "winogrande": (["option1", "option2"], "option1", {"option1": 1, "option3 option2 option1": 0, "Option1": 0}),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_first_option_that_is_found_counts(name: str, score: Any) -> None:
    options, right, expected = OUTPUTS[name]
    row = {"prompt": "Which?\n", "answers": [f"the correct answer is {right}"], "options": options}
    rows = [row | {"id": str(i), "prompt": f"Which of {i}?\n"} for i in range(len(expected))]
    _, items = score(name, rows, list(expected), **FORMAT)
    assert {output: item["extracted_acc"] for output, item in zip(expected, items, strict=True)} == expected
    assert score.generation_kwargs == {"until": [], "max_gen_toks": 32, "do_sample": False}


@pytest.mark.parametrize("name", TASKS)
def test_items_and_splits_are_those_of_the_other_format(name: str, splits: Any) -> None:
    """So passages stay together although BoolQ's prompts no longer show them, and options are no part of the key."""
    key = load_task(name).overlap_key
    made = [splits(name, **options) for options in ({}, FORMAT)]
    for split in ("train", "validation", "test"):
        plain, other = ([(row["item"], row[key]) for row in getattr(of, split)] for of in made)
        assert plain == other


def test_lm_evals_own_definition_asks_the_same_under_both_formats(splits: Any, tmp_path: Path) -> None:
    model, asked = tiny_model("llama", vocab_size=259, max_position_embeddings=4096), []
    for options in ({}, FORMAT):
        items = tmp_path / "test.jsonl"
        write_jsonl(items, splits("boolq", **options).test[:2])
        task = load_task("boolq")
        task = task.Options(**options).configured(task)
        _, samples = evaluate(model, byte_tokenizer(), task, items, batch_size=4, protocol=HARNESS)
        asked.append([(sample["arguments"], sample["acc"]) for sample in samples])
    assert asked[0] == asked[1]


def question(number: int, label: int, *, long: bool = False) -> dict[str, Any]:
    """An item of Social IQa in the hub's schema; a long one has more bytes than the models of other tests read."""
    context = f"Kai met {'very ' * 70 if long else ''}{number} people."
    return {
        "context": context,
        "question": "Why?",
        "answerA": "late",
        "answerB": "fun",
        "answerC": "no",
        "label": str(label),
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RunTable:
    """Social IQa on a model that reads 2048 tokens; every answer that it is trained on is the second."""
    folder = tmp_path_factory.mktemp("format")
    save_checkpoint(folder / "checkpoint", max_position_embeddings=2048)
    hub = folder / "mirror" / "hub" / "allenai" / "social_i_qa" / "default"
    hub.mkdir(parents=True)
    write_jsonl(hub / "train.jsonl", [question(i, 2, long=i % 3 == 0) for i in range(20)])
    write_jsonl(hub / "validation.jsonl", [question(i, 2 + i % 2, long=i == 23) for i in range(20, 26)])
    length = {"max_length": 2048}
    config = tiny_config(
        folder,
        {
            "base": None,
            "fewshot": {"params": {"shots": 2}},
            "full": {"params": length | {"epochs": 20, "lr": 0.01, "batch_size": 4}},
            "iti": {"params": length | {"alpha": [5.0]}, "heads": {"k": [2]}},
        },
        tasks={"siqa": {"options": dict(FORMAT)}},
        data_mirror=str(folder / "mirror"),
    )
    made = RunTable(parse_config(config))
    run_nodes(made, FETCH, PREPARE)
    fit(made)
    run_nodes(made, EVALUATE)
    collect_results(made, MAIN)
    write_outputs(made, "main")
    return made


def test_what_is_learned_is_generated_and_scored(table: RunTable) -> None:
    assert headline(table, "paper") == {"siqa": "extracted_acc"}
    assert "extracted_acc" in (table.config.results / "tables" / "main.md").read_text()
    for node in table.evaluations.values():
        result = read_json(table.folder(node) / "results.json")
        assert result["status"] == "ok", result
        assert set(result["metrics"]) == {"extracted_acc"}
        assert (result["n_items"], result["n_truncated"], result["n_unreachable"]) == (6, 0, 0)
        samples = read_jsonl(table.folder(node) / "samples.jsonl")
        texts = [sample["resps"][0][0] for sample in samples]
        right = [sample["doc"]["answers"][0][-7:] in text for sample, text in zip(samples, texts, strict=True)]
        assert result["metrics"]["extracted_acc"]["value"] == sum(right) / 6
        if node.fit.method == "full":
            assert texts == ["the correct answer is answer2"] * 6
            assert sum(right) == 3


def test_another_format_is_another_split_fit_and_score(table: RunTable) -> None:
    def ids(**options: Any) -> set[str]:
        made = RunTable(
            table.config.model_copy(update={"tasks": {"siqa": entry.model_copy(update={"options": options})}})
        )
        return {node.id for nodes in (made.data, made.fits, made.evaluations) for node in nodes.values()}

    entry = table.config.tasks["siqa"]
    assert entry
    plain, format, framed = ids(), ids(**FORMAT), ids(**FORMAT, frame=True)
    assert not plain & format and not format & framed
    assert ids(format="likelihood") == plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": {"siqa": {"options": {"frame": True}}}}, "tasks.siqa.options.frame: only prompts of llm_adapters"),
        ({"tasks": {"siqa": {"options": {"format": "alpaca"}}}}, "tasks.siqa.options.format: input should be"),
        (
            {"tasks": {"siqa": {"options": FORMAT}}, "retention": {"siqa": None}},
            "retention.siqa.options.format: not that of tasks.siqa; set it to llm_adapters",
        ),
        (
            {"tasks": {"siqa": {"options": FORMAT}}, "retention": {"siqa": {"options": FORMAT | {"frame": True}}}},
            "retention.siqa.options.frame: not that of tasks.siqa; set it to false",
        ),
        (
            {"tasks": {"svamp": None}, "retention": {"svamp": {"options": {"target": "equation"}}}},
            "retention.svamp.options.target: not that of tasks.svamp; set it to answer",
        ),
    ],
)
def test_options_that_do_not_go_together_are_one_line(changes: dict[str, Any], message: str) -> None:
    config = {"models": ["smollm2-135m"], "methods": {"base": None, "lora": None}, **changes}
    with pytest.raises(ConfigError) as caught:
        parse_config(config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_may_be_trained_for_and_retained_in_one_format() -> None:
    entry = {"options": FORMAT | {"n_test": 5}}
    config = {"models": ["smollm2-135m"], "methods": {"base": None, "lora": None}, "retention": {"siqa": entry}}
    tasks = {"siqa": {"options": FORMAT}, "listops": None}
    assert parse_config(config | {"tasks": tasks}).task("siqa").headline == "extracted_acc"
    assert parse_config(config | {"tasks": {"listops": None}}).task("siqa").headline == "extracted_acc"
