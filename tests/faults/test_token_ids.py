"""Tokenizers with tokens that the model's embedding has no row for, and without an end-of-sequence token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import PreTrainedTokenizerFast

from lofit.nodes import evaluate as evaluate_node
from lofit.plan.table import ALL
from lofit.report.parts import collect_results
from tests.checkpoint import byte_tokenizer, save_checkpoint
from tests.fitted import fitted_table, tiny_config

TRAINING: dict[str, Any] = {"epochs": 1, "lr": 0.05}
METHODS: dict[str, Any] = {
    "base": None,
    "lofit": {"heads": {"k": [3], "params": TRAINING}, "params": TRAINING},
    "iti": {"heads": {"k": [2]}},
}


def reasons(folder: Path, change: Callable[[PreTrainedTokenizerFast], Any]) -> dict[str, str]:
    """The status of every method, with a tokenizer that was changed after the model was made."""
    tokenizer = byte_tokenizer()
    change(tokenizer)
    tokenizer.save_pretrained(save_checkpoint(folder / "checkpoint"))
    table = fitted_table(tiny_config(folder, METHODS))
    for node in table.evaluations.values():
        evaluate_node.run(table, node)
    collect_results(table, ALL)
    results = pd.read_parquet(table.config.results / "results.parquet")
    assert set(results["method"]) == set(METHODS)
    return dict(zip(results["method"], results["status"], strict=True))


def test_a_padding_token_that_was_added_later_does_no_harm(tmp_path: Path) -> None:
    found = reasons(tmp_path, lambda tokenizer: tokenizer.add_special_tokens({"pad_token": "[PAD]"}))
    assert set(found.values()) == {"ok"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tokenizer: setattr(tokenizer, "eos_token", None), "the tokenizer has no end-of-sequence token"),
        (
            lambda tokenizer: tokenizer.add_special_tokens({"eos_token": "<|end|>"}),
            "end-of-sequence: token 259 has no row in the model's embedding, which has 259",
        ),
        (
            lambda tokenizer: tokenizer.add_tokens(["MIN"]),  # a word of ListOps
            "token 259 has no row in the model's embedding, which has 259",
        ),
    ],
    ids=["no end", "end beyond", "a word beyond"],
)
def test_what_is_needed_and_not_there_is_the_same_failed_run_for_all(
    change: Callable[[PreTrainedTokenizerFast], Any], message: str, tmp_path: Path
) -> None:
    found = reasons(tmp_path, change)
    assert all(status.startswith("failed: ") and message in status for status in found.values()), found
