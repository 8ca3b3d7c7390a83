"""Judges against probabilities by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lofit.evaluation.judge import judge, rates
from lofit.models.loading import load_model, load_tokenizer
from tests.checkpoint import save_checkpoint

QUESTIONS = ["Is it so?", "Why?", "Where is it, and since when?", "Who?"]
WORDS = (" ja", " no")  # of one length, since these models read bytes
ANSWERS = ["Yes.", "", "I have no comment.", "né"]


def likelier_yes(folder: Path, prompt: str) -> bool:
    model, tokenizer = load_model(folder, torch.device("cpu"), torch.float32), load_tokenizer(folder)
    scores = []
    for word in WORDS:
        ids, start = tokenizer(prompt + word)["input_ids"], len(tokenizer(prompt)["input_ids"])
        with torch.no_grad():
            table = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        scores.append(sum(float(table[i - 1, ids[i]]) for i in range(start, len(ids))))
    return scores[0] > scores[1]


def test_each_judge_has_its_own_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lofit.evaluation.judge.YES", WORDS[0])
    folders = {kind: save_checkpoint(tmp_path / kind, seed=seed) for kind, seed in (("truth", 3), ("info", 7))}
    found = judge(folders, QUESTIONS, ANSWERS, device=torch.device("cpu"), dtype=torch.float32, batch_size=2)
    seen = set()
    for question, answer, verdict in zip(QUESTIONS, ANSWERS, found, strict=True):
        asked = f"Q: {question}\nA: {answer}\n"
        true = likelier_yes(folders["truth"], asked + "True:")
        informative = likelier_yes(folders["info"], asked + "Helpful:")
        assert verdict == {"true": true, "informative": informative, "true_and_informative": true and informative}
        seen |= {true, informative}
    assert seen == {True, False}, "these models say both"


def test_the_share_that_is_both_is_not_the_product_of_the_shares() -> None:
    answers = 6 * [(1.0, 0.0)] + 3 * [(0.0, 1.0)] + [(1.0, 1.0)]
    verdicts = [{"true": t, "informative": i, "true_and_informative": t * i, "doc_id": 0} for t, i in answers]
    found = rates(verdicts)
    assert {name: metric["value"] for name, metric in found.items()} == pytest.approx(
        {"true": 0.7, "informative": 0.4, "true_and_informative": 0.1, "true_x_informative": 0.28}
    )
    assert rates(verdicts[:1])["true_x_informative"] == {"value": 0.0, "stderr": None}


def test_standard_error_of_the_product_is_that_of_resampled_answers() -> None:
    rng = np.random.default_rng(0)
    true = (rng.random(400) < 0.6).astype(float)
    informative = np.where(rng.random(400) < 0.5, 1 - true, rng.random(400) < 0.8)
    drawn = rng.integers(400, size=(4000, 400))
    spread = float((true[drawn].mean(1) * informative[drawn].mean(1)).std())
    both = zip(true.tolist(), informative.tolist(), strict=True)
    found = rates([{"true": t, "informative": i, "true_and_informative": t * i} for t, i in both])
    assert found["true_x_informative"]["stderr"] == pytest.approx(spread, rel=0.05)
