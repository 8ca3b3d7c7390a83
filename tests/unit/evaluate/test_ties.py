"""Ties are wrong, whatever the protocol, and are counted; so are answers that no output can match."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers

from lofit.evaluation.harness import evaluate
from lofit.files import write_jsonl
from lofit.spec.protocol import HARNESS, Protocol
from lofit.tasks import load_task
from lofit.tasks.answers import TIE, by_length, wins
from lofit.tasks.custom import custom_task
from tests.checkpoint import byte_tokenizer
from tests.tiny import tiny_model


def model() -> Any:
    return tiny_model("llama", vocab_size=259, max_position_embeddings=512)


def choice(number: int, choices: list[str], gold: int) -> dict[str, Any]:
    """A row of ARC, in our form and in lm-eval's."""
    labels = "ABCDE"[: len(choices)]
    item = {"question": f"{number}?", "choices": {"text": choices, "label": [*labels]}, "answerKey": labels[gold]}
    row = {"id": str(number), "prompt": f"Question: {number}?\nAnswer:", "choices": choices, "gold": gold}
    return row | {"item": item | {"id": str(number)}}


@pytest.mark.parametrize("protocol", ["paper", HARNESS])
def test_texts_that_the_tokenizer_does_not_tell_apart_are_a_tie(protocol: Protocol, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    rows = [choice(0, ["Paris", "paris"], 0), choice(1, ["Paris", "paris"], 1), choice(2, ["Bonn", "Rome"], 0)]
    write_jsonl(tmp_path / "test.jsonl", rows)
    task = load_task("arc_challenge")
    result, samples = evaluate(model(), tokenizer, task, tmp_path / "test.jsonl", batch_size=2, protocol=protocol)
    assert [sample["acc"] for sample in samples[:2]] == [0, 0]
    assert [sample["acc_norm"] for sample in samples[:2]] == [0, 0]
    assert result["n_ties"] == 2
    mean = sum(sample["acc"] for sample in samples) / 3
    assert result["metrics"]["acc"]["value"] == pytest.approx(mean)


@pytest.mark.parametrize("protocol", ["paper", HARNESS])
@pytest.mark.parametrize("gold", [0, 1])
def test_a_right_choice_that_is_repeated_counts_by_its_text(protocol: Protocol, gold: int, tmp_path: Path) -> None:
    """As in published data (AQuA); the model likes one text best in all rows."""
    texts = ["8.75", "8.79"]
    rows = [choice(i, [texts[0], texts[0], texts[1]], gold) for i in range(3)]
    rows += [choice(3 + i, [texts[1], texts[1], texts[0]], gold) for i in range(3)]
    write_jsonl(tmp_path / "test.jsonl", rows)
    task = load_task("arc_challenge")
    result, samples = evaluate(
        model(), byte_tokenizer(), task, tmp_path / "test.jsonl", batch_size=2, protocol=protocol
    )
    liked = [float(scores[0][0] > scores[-1][0]) for scores in (sample["filtered_resps"] for sample in samples)]
    assert [sample["acc"] for sample in samples] == liked
    assert result["n_ties"] == 0


def test_texts_of_the_same_tokens_and_another_length_are_a_tie_by_length_too(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    rows = [choice(0, ["\ufb01ne", "fine"], 1), choice(1, ["fine", "\ufb01ne"], 0)]
    write_jsonl(tmp_path / "test.jsonl", rows)
    task = load_task("arc_challenge")
    result, samples = evaluate(model(), tokenizer, task, tmp_path / "test.jsonl", batch_size=2)
    assert [(sample["acc"], sample["acc_norm"]) for sample in samples] == [(0, 0), (0, 0)]
    assert result["n_ties"] == 2
    assert by_length([-6.0, -6.0, -4.0], ["abc", "ab", "a"]) == [-2.0, -2.0, -4.0]


def test_a_tie_is_no_win() -> None:
    assert wins([-1.0, -2.0], [True, False])
    assert not wins([-1.0, -1.0], [True, False])
    assert not wins([-1.0, -1.0 - TIE / 2], [True, False])
    assert wins([-2.0, -1.0, -1.0], [False, True, True])


def test_answers_out_of_reach_are_counted(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"prompt": "a", "answer": "b"}, {"prompt": "c", "answer": "d"}])
    (tmp_path / "task.yaml").write_text("max_gen_toks: 6\n")
    answers = [["red"], ["red</s>"], ["sevenletters"], ["sevenletters", "red"], [" red"], ["five5"], ["sixsix"]]
    rows = [{"id": str(i), "prompt": f"{i}:", "answers": accepted} for i, accepted in enumerate(answers)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    task = custom_task("t", tmp_path / "task.yaml")
    result, _ = evaluate(model(), byte_tokenizer(), task, tmp_path / "rows.jsonl", batch_size=2)
    # Of byte tokens, a blank in front among them, six are generated: five letters fit.
    assert result["n_unreachable"] == 3
    assert (result["n_items"], result["n_ties"]) == (7, 0)


def test_choices_that_another_one_always_beats_are_counted(tmp_path: Path) -> None:
    """The probability of 10 is that of 1 times that of 0 after it, if digits are tokens."""
    rows = [{"id": str(gold), "prompt": "n:", "choices": ["1", "2", "10"], "gold": gold} for gold in range(3)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    result, _ = evaluate(model(), byte_tokenizer(), load_task("boolq"), tmp_path / "rows.jsonl", batch_size=2)
    assert result["n_unreachable"] == 1
