"""lm-eval on our task folders gives what an independent computation gives, with and without an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model

from lofit.errors import TaskError
from lofit.evaluation.harness import evaluate, stock_tasks
from lofit.files import write_jsonl
from lofit.interventions import LofitConfig
from lofit.models.loading import load_model
from lofit.nodes.evaluate import draw_shots
from lofit.tasks import load_task
from tests.checkpoint import byte_tokenizer
from tests.tiny import tiny_model

CHOICES: list[dict[str, Any]] = [
    {"id": "a", "prompt": "Q: is it so?\nA:", "choices": ["yes", "no", "may be"], "gold": 1, "context": "x"},
    {"id": "b", "prompt": "Q: naïve?\nA:", "choices": ["über", "x", "nothing at all"], "gold": 2, "context": "y"},
    {"id": "c", "prompt": "Q:\nA:", "choices": ["q", "qq", "qqq"], "gold": 0, "context": "z"},
]
SUMS = [{"id": str(i), "prompt": f"{i}+1=", "answers": [str(i + 1)], "separator": " "} for i in range(5)]


def edited(seed: int = 0, std: float = 1.0) -> Any:
    """A tiny model with random offsets on four heads."""
    config = LofitConfig(heads=[(0, 1), (1, 2), (2, 0), (2, 3)], scale=False, offset=True, init_std=std, init_seed=seed)
    return get_peft_model(tiny_model("llama", vocab_size=259, max_position_embeddings=512), config).eval()


def answer_log_prob(model: Any, prompt: str, answer: str) -> float:
    tokenizer = byte_tokenizer()
    ids, start = tokenizer(prompt + answer)["input_ids"], len(tokenizer(prompt)["input_ids"])
    with torch.no_grad():
        table = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(table[i - 1, ids[i]]) for i in range(start, len(ids)))


@pytest.mark.parametrize("std", [0.0, 1.0])
def test_multiple_choice_equals_log_probabilities_summed_by_hand(tmp_path: Path, std: float) -> None:
    items, model = tmp_path / "test.jsonl", edited(std=std)
    write_jsonl(items, CHOICES)
    result, samples = evaluate(model, byte_tokenizer(), load_task("siqa"), items, batch_size=4)
    correct = []
    for row, sample in zip(CHOICES, samples, strict=True):
        expected = [answer_log_prob(model, row["prompt"], f" {choice}") for choice in row["choices"]]
        assert [response[0] for response in sample["filtered_resps"]] == pytest.approx(expected, rel=1e-4)
        correct.append(float(max(range(3), key=expected.__getitem__) == row["gold"]))
    assert result["n_items"] == 3
    assert result["metrics"]["acc"]["value"] == pytest.approx(sum(correct) / 3)


def test_the_adapter_is_scored_and_switched_off_it_is_the_base(tmp_path: Path) -> None:
    items, model = tmp_path / "test.jsonl", edited()
    write_jsonl(items, CHOICES)

    def scores(scored: Any) -> list[float]:
        _, samples = evaluate(scored, byte_tokenizer(), load_task("siqa"), items, batch_size=4)
        return [float(response[0]) for sample in samples for response in sample["filtered_resps"]]

    base = scores(tiny_model("llama", vocab_size=259, max_position_embeddings=512))
    assert scores(model) != base
    with model.disable_adapter():
        assert scores(model) == base


def test_generation_is_greedy_and_stops_at_the_limit(tmp_path: Path) -> None:
    items, model, tokenizer = tmp_path / "test.jsonl", edited(), byte_tokenizer()
    write_jsonl(items, SUMS)
    result, samples = evaluate(model, tokenizer, load_task("listops"), items, batch_size=2)
    for row, sample in zip(SUMS, samples, strict=True):
        ids = tokenizer(str(row["prompt"]))["input_ids"]
        with torch.no_grad():
            for _ in range(4):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        expected = tokenizer.decode(ids[-4:], skip_special_tokens=True).split("\n")[0]
        assert sample["resps"][0][0] == expected
    assert result["metrics"]["exact_match"]["stderr"] is not None


def test_repeated_evaluation_gives_equal_scores(tmp_path: Path) -> None:
    items = tmp_path / "test.jsonl"
    write_jsonl(items, CHOICES)
    results = [evaluate(edited(), byte_tokenizer(), load_task("siqa"), items, batch_size=4)[0] for _ in range(2)]
    assert results[0] == results[1]


SFT_SHOTS = [{"id": "s", "prompt": "8+1=", "target": " 9"}, {"id": "t", "prompt": "7+1=", "target": " 8"}]
DPO_SHOTS = [{"id": "s", "train_prompt": "Q: up? A:", "chosen": " Yes", "rejected": " No"}]


@pytest.mark.parametrize(
    ("name", "rows", "shots", "front"),
    [
        ("listops", SUMS, SFT_SHOTS, "8+1= 9\n\n7+1= 8\n\n"),
        ("siqa", CHOICES, SFT_SHOTS, "8+1= 9\n\n7+1= 8\n\n"),
        ("truthfulqa", [row | {"labels": [1, 0, 0]} for row in CHOICES], DPO_SHOTS, "Q: up? A: Yes\n\n"),
    ],
)
def test_examples_stand_answered_in_front_of_every_prompt(
    tmp_path: Path, name: str, rows: list[dict[str, Any]], shots: list[dict[str, Any]], front: str
) -> None:
    items = tmp_path / "test.jsonl"
    write_jsonl(items, rows)
    model = tiny_model("llama", vocab_size=259, max_position_embeddings=512)
    _, samples = evaluate(model, byte_tokenizer(), load_task(name), items, batch_size=2, shots=shots)
    for row, sample in zip(rows, samples, strict=True):
        assert {argument[0] for argument in sample["arguments"]} == {front + str(row["prompt"])}


def test_examples_stand_in_front_of_every_filled_in_beginning(tmp_path: Path) -> None:
    row = {"id": "a", "prompt": "Al saw Bo so", "choices": ["Al ran.", "Bo ran."], "gold": 1, "continuation": "ran."}
    contexts = ["Al saw Bo so Al", "Al saw Bo so Bo"]
    write_jsonl(tmp_path / "test.jsonl", [row | {"contexts": contexts}])
    model = tiny_model("llama", vocab_size=259, max_position_embeddings=512)
    task, items = load_task("winogrande"), tmp_path / "test.jsonl"
    _, (sample,) = evaluate(model, byte_tokenizer(), task, items, batch_size=2, shots=SFT_SHOTS[:1])
    front = f"{SFT_SHOTS[0]['prompt']}{SFT_SHOTS[0]['target']}\n\n"
    assert sample["arguments"] == [(front + context, " ran.") for context in contexts]


def test_the_harness_needs_as_many_training_rows_as_it_shows(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "train.jsonl", [{"id": str(i), "item": {"question": "1+1", "answer": "2"}} for i in range(4)]
    )
    rows = [{"id": "a", "item": {"question": "1+2", "answer": "3"}}]
    with pytest.raises(TaskError, match="lm-eval's definition shows 5 training rows and there are 4"):
        stock_tasks(load_task("gsm8k"), rows, tmp_path / "train.jsonl")


def test_examples_are_drawn_by_the_seed_and_must_be_there(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", SUMS)
    drawn = draw_shots(tmp_path / "train.jsonl", 3, seed=1)
    assert drawn == draw_shots(tmp_path / "train.jsonl", 3, seed=1) != draw_shots(tmp_path / "train.jsonl", 3, seed=2)
    assert all(row in SUMS for row in drawn)
    assert draw_shots(tmp_path / "absent.jsonl", 0, seed=1) == []
    with pytest.raises(TaskError, match="6 examples asked for, 5 training rows"):
        draw_shots(tmp_path / "train.jsonl", 6, seed=1)


def test_a_checkpoints_own_habits_of_generation_do_not_count(tmp_path: Path) -> None:
    model = tiny_model("llama", vocab_size=259, max_position_embeddings=512)
    model.generation_config.repetition_penalty = 3.0
    model.generation_config.no_repeat_ngram_size = 1
    model.save_pretrained(tmp_path / "habits")
    tiny_model("llama", vocab_size=259, max_position_embeddings=512).save_pretrained(tmp_path / "plain")
    write_jsonl(tmp_path / "test.jsonl", SUMS)
    outputs = []
    for name in ("habits", "plain"):
        loaded = load_model(tmp_path / name, torch.device("cpu"), torch.float32)
        _, samples = evaluate(loaded, byte_tokenizer(), load_task("listops"), tmp_path / "test.jsonl", batch_size=2)
        outputs.append([sample["resps"][0][0] for sample in samples])
    assert outputs[0] == outputs[1]
