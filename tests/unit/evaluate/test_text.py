"""Cross-entropy and KL on plain text, against sums by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model

from lofit.evaluation import text
from lofit.evaluation.text import score_text
from lofit.interventions import LofitConfig, LoreftConfig
from tests.checkpoint import byte_tokenizer
from tests.tiny import tiny_model

ROWS = [{"id": "a", "text": "The quick brown fox."}, {"id": "b", "text": "né"}]


def edited(**fields: Any) -> Any:
    config = LofitConfig(heads=[(0, 1), (2, 0)], scale=False, offset=True, init_std=1.0, **fields)
    return get_peft_model(tiny_model("llama", vocab_size=259), config).eval()


def by_hand(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)


def test_values_of_every_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "WINDOW", 8)
    model, base, tokenizer = edited(), tiny_model("llama", vocab_size=259), byte_tokenizer()
    result, samples = score_text(model, None, tokenizer, ROWS, "plain")
    windows = [tokenizer("The quic")["input_ids"], tokenizer("k brown ")["input_ids"], tokenizer("né")["input_ids"]]
    assert [sample["doc"]["id"] for sample in samples] == ["a-0", "a-1", "b-0"]
    for ids, sample in zip(windows, samples, strict=True):
        fitted, reference = by_hand(model, ids), by_hand(base, ids)
        entropy = -fitted.gather(-1, torch.tensor(ids[1:])[:, None]).mean()
        divergence = (reference.exp() * (reference - fitted)).sum(-1).mean()
        assert sample["cross_entropy"] == pytest.approx(float(entropy), rel=1e-4)
        assert sample["kl"] == pytest.approx(float(divergence), rel=1e-3)
    assert result["n_items"] == 3
    mean = sum(sample["kl"] for sample in samples) / 3
    assert result["metrics"]["kl"]["value"] == pytest.approx(mean)


def test_every_window_begins_as_a_text_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "WINDOW", 8)
    model, tokenizer = tiny_model("llama", vocab_size=259), byte_tokenizer(bos=True)
    _, samples = score_text(model, None, tokenizer, [*ROWS[:1], {"id": "b", "text": "seven b"}], "plain")
    windows = ["The qui", "ck brow", "seven b"]
    assert [sample["doc_id"] for sample in samples] == [0, 0, 1], "the row, for its cluster"
    for window, sample in zip(windows, samples, strict=True):
        ids = tokenizer(window)["input_ids"]
        assert (len(ids), ids[0]) == (8, tokenizer.bos_token_id)
        entropy = -by_hand(model, ids).gather(-1, torch.tensor(ids[1:])[:, None]).mean()
        assert sample["cross_entropy"] == pytest.approx(float(entropy), rel=1e-4)


def test_of_prompts_the_ends_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "WINDOW", 8)
    model, tokenizer = tiny_model("llama", vocab_size=259), byte_tokenizer(bos=True)
    rows = [{"id": "a", "text": "What is it? A:"}, {"id": "b", "text": "short"}]
    rows[1]["number"] = 7
    _, samples = score_text(model, None, tokenizer, rows, "plain", ends=True)
    assert [sample["doc_id"] for sample in samples] == [0, 7], "the row among all, for its cluster"
    for window, sample in zip([" it? A:", "short"], samples, strict=True):
        ids = tokenizer(window)["input_ids"]
        entropy = -by_hand(model, ids).gather(-1, torch.tensor(ids[1:])[:, None]).mean()
        assert sample["cross_entropy"] == pytest.approx(float(entropy), rel=1e-4)


def test_the_base_is_no_way_from_itself_and_another_checkpoint_is() -> None:
    base, other = tiny_model("llama", vocab_size=259), tiny_model("llama", seed=1, vocab_size=259)
    own, _ = score_text(base, None, byte_tokenizer(), ROWS, "plain")
    assert own["metrics"]["kl"]["value"] == 0
    moved, _ = score_text(other, base, byte_tokenizer(), ROWS, "plain")
    assert moved["metrics"]["kl"]["value"] > 0.01


def test_the_adapter_is_on_again_afterwards() -> None:
    model = edited()
    before = model(torch.tensor([[5, 6, 7]])).logits
    score_text(model, None, byte_tokenizer(), ROWS, "plain")
    assert torch.equal(model(torch.tensor([[5, 6, 7]])).logits, before)


def test_edits_of_prompts_or_answers_take_the_text_for_both() -> None:
    everywhere, _ = score_text(edited(), None, byte_tokenizer(), ROWS, "plain")
    answers, _ = score_text(edited(positions="answer"), None, byte_tokenizer(), ROWS, "plain")
    assert answers["metrics"] == everywhere["metrics"]
    model = get_peft_model(tiny_model("llama", vocab_size=259), LoreftConfig(rank=2, prefix=2, suffix=2))
    result, _ = score_text(model, None, byte_tokenizer(), ROWS, "plain")
    assert result["metrics"]["kl"]["value"] > 0
