"""Answer spans by character offsets, and left-padded batches."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lofit.errors import FitError, TaskError
from lofit.models.encoding import encode, encode_rows
from lofit.packing.rows import unpacked
from tests.checkpoint import byte_tokenizer


def test_span_is_the_answer_and_end_of_sequence() -> None:
    tokenizer = byte_tokenizer()
    example = encode(tokenizer, "Q: naïve? A:", " Ünder")
    assert tokenizer.decode(example.ids[: example.answer_start]) == "Q: naïve? A:"
    assert tokenizer.decode(example.ids[example.answer_start :]) == " Ünder</s>"
    assert example.n_answer == len(" Ünder".encode()) + 1


def test_bos_is_kept_and_is_prompt() -> None:
    example = encode(byte_tokenizer(bos=True), "Q", "A")
    assert example.ids[0] == 1
    assert example.ids[-1] == 2
    assert (example.answer_start, len(example.ids)) == (2, 4)


def test_a_token_across_the_boundary_is_answer() -> None:
    vocabulary = {"?": 0, "\n": 1, "?\n": 2, "a": 3, "</s>": 4}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("?", "\n")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("a", "isolated")
    merging = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    example = encode(merging, "a?", "\na")
    assert example.ids == (3, 2, 3, 4)
    assert example.answer_start == 1


@pytest.mark.parametrize(
    ("prompt", "answer", "limit", "message"),
    [
        ("Q", "", 99, "the answer '' has no tokens"),
        ("", "A", 99, "the prompt has no tokens"),
        ("Q" * 20, "A", 16, "22 tokens exceed max_length 16"),
    ],
)
def test_unusable_rows_are_refused_by_name(prompt: str, answer: str, limit: int, message: str) -> None:
    with pytest.raises(FitError, match=f"row 'x7': {message}"):
        encode_rows(byte_tokenizer(), [{"id": "x7", "prompt": prompt, "target": answer}], "sft", limit)


def test_what_is_too_long_is_counted_and_never_cut() -> None:
    rows = [{"id": f"r{n}", "prompt": "Q" * n, "target": "A"} for n in (5, 15, 25)]
    assert [len(row[0].ids) for row in encode_rows(byte_tokenizer(), rows, "sft", 27, window=26)] == [7, 17, 27]
    with pytest.raises(FitError, match=r"row 'r15': 17 tokens exceed max_length 16; raise .* \(2 of 3 texts\)"):
        encode_rows(byte_tokenizer(), rows, "sft", 16, window=99)
    with pytest.raises(FitError, match=r"row 'r25': 27 tokens exceed the 25 that the model reads; .* \(1 of 3 texts\)"):
        encode_rows(byte_tokenizer(), rows, "sft", 99, window=25)


def test_missing_field_is_named() -> None:
    with pytest.raises(TaskError, match="row 'x7': field 'rejected'"):
        encode_rows(byte_tokenizer(), [{"id": "x7", "train_prompt": "Q", "chosen": "A"}], "dpo", 99)


def test_batch_is_left_padded_with_answers_last() -> None:
    tokenizer = byte_tokenizer()
    examples = [encode(tokenizer, "abc", "de"), encode(tokenizer, "a", "b")]
    batch = unpacked(examples, 0, torch.device("cpu"))
    a, b, c, d, e = tokenizer("abcde")["input_ids"]
    assert batch.input_ids.tolist() == [[a, b, c, d, e], [0, 0, 0, a, b]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 0, 1]]
    assert batch.width == 3
    assert batch.text.tolist() == [0, 0, 0, 1, 1]
    assert batch.row.tolist() == [0, 0, 0, 1, 1]
    assert batch.column.tolist() == [0, 1, 2, 1, 2]
    assert batch.label.tolist() == [d, e, 2, b, 2]
    assert batch.prompt.int().tolist() == [[1, 1, 1, 0, 0], [0, 0, 0, 1, 0]]
    assert batch.answer.int().tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]
