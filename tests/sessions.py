"""A tiny model with a byte tokenizer and rows of arithmetic, as localizers and methods get them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lofit.activations.last_token import capture, contrast_texts
from lofit.activations.store import read_activations
from lofit.files import write_json
from lofit.models.session import Session
from lofit.rankings.ranking import rank_heads, write_ranking
from lofit.training.context import FitContext
from lofit.training.savepoint import SavePoint
from tests.checkpoint import byte_tokenizer
from tests.tiny import tiny_model


def sft_row(i: int) -> dict[str, Any]:
    """One sum, its answer, and a wrong one."""
    prompt = f"{i}+{i}="
    return {
        "id": str(i),
        "prompt": prompt,
        "target": f" {2 * i}",
        "contrast": {"prompt": prompt, "right": [f" {2 * i}"], "wrong": [f" {2 * i + 1}"]},
    }


def dpo_row(i: int) -> dict[str, Any]:
    """The same as a preference pair, with two wrong answers."""
    prompt = f"{i}+{i}="
    return {
        "id": str(i),
        "train_prompt": prompt,
        "chosen": f" {2 * i}",
        "rejected": " no",
        "contrast": {"prompt": prompt, "right": [f" {2 * i}"], "wrong": [" no", f" {2 * i + 1}"]},
    }


ROWS = [sft_row(i) for i in range(12)]
PAIRS = [dpo_row(i) for i in range(6)]


def session(family: str = "llama", overrides: dict[str, Any] | None = None, **changes: Any) -> Session:
    """A frozen tiny model with 8 training and 4 validation rows; ``changes`` replace fields of the session."""
    model = tiny_model(family, **{"vocab_size": 259, **(overrides or {})}).requires_grad_(False)
    fields: dict[str, Any] = {
        "objective": "sft",
        "train": ROWS[:8],
        "validation": ROWS[8:],
        "seed": 3,
        "progress": False,
    }
    return Session(model=model, tokenizer=byte_tokenizer(), **(fields | changes))


def fit_context(opened: Session, folder: Path | None = None, k: tuple[int, ...] = (), scores: Any = None) -> FitContext:
    """A context around a session of 3 layers x 4 heads.

    With ``folder``, the activations of the session's rows are read into it, and a ranking by ``scores`` ([3, 4]) is
    written there if they are given.
    """
    folders = {"activations_dir": folder, "ranking_dir": folder}
    bench = FitContext("t", "tiny/sums/fold0", opened.seed, 3, 4, lambda: opened, k, **folders)
    if folder:
        texts = contrast_texts({"train": opened.train, "validation": opened.validation})
        record = capture(opened, texts, folder / "heads.npy", folder / "blocks.npy")
        texts[["split", "row", "pair", "label"]].to_parquet(folder / "texts.parquet")
        write_json(folder / "activations.json", {"status": "ok", "reason": None, **record})
        assert read_activations(folder).heads.shape[:2] == (3, len(texts))
    if folder and scores is not None:
        write_ranking(rank_heads(scores), folder / "heads.parquet")
        write_json(folder / "localize.json", {"status": "ok", "reason": None, "seconds": 0.0})
    return bench


class Killed(BaseException):
    """What no handler of the product catches."""


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Kill the training once it was saved ``after`` times."""
    save, count = SavePoint.save, 0

    def saved(self: SavePoint, *args: Any) -> None:
        nonlocal count
        save(self, *args)
        count += 1
        if count == after:
            raise Killed

    monkeypatch.setattr(SavePoint, "save", saved)
