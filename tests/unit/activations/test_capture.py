"""What is read from the model, against hidden states and a forward pass without batch or padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lofit.activations.last_token import capture, contrast_texts
from lofit.activations.store import read_activations
from lofit.errors import FitError
from lofit.files import write_json
from tests.by_hand import PROJECTIONS
from tests.sessions import ROWS, dpo_row, fit_context, session
from tests.tiny import FAMILIES


def test_texts_are_all_answers_of_training_and_validation_questions() -> None:
    texts = contrast_texts({"train": [dpo_row(3)], "validation": [dpo_row(5)]})
    assert texts[["split", "row", "pair", "label"]].to_numpy().tolist() == [
        ["train", 0, 0, 1], ["train", 0, 0, 0], ["train", 0, 1, 0],
        ["validation", 1, 0, 1], ["validation", 1, 0, 0], ["validation", 1, 1, 0],
    ]  # fmt: skip
    assert (texts["prompt"] + texts["answer"]).tolist()[:3] == ["3+3= 6", "3+3= no", "3+3= 7"]


@pytest.mark.parametrize("family", FAMILIES)
def test_last_token_of_every_head_and_layer(family: str, tmp_path: Path) -> None:
    opened = session(family)
    bench = fit_context(opened, tmp_path)
    texts = contrast_texts({"train": opened.train, "validation": opened.validation})
    path, width = PROJECTIONS[family]
    model = opened.model
    for index in (0, 5, len(texts) - 1):
        ids = opened.tokenizer(texts["prompt"][index] + texts["answer"][index], return_tensors="pt")["input_ids"]
        inputs: dict[int, torch.Tensor] = {}

        def keep(layer: int, into: dict[int, torch.Tensor]) -> Any:
            return lambda module, arguments: into.update({layer: arguments[0][0, -1]})

        handles = [
            model.get_submodule(path.format(layer)).register_forward_pre_hook(keep(layer, inputs)) for layer in range(3)
        ]
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states
        for handle in handles:
            handle.remove()
        for layer in range(3):
            expected = inputs[layer].reshape(4, width).numpy()
            np.testing.assert_allclose(bench.activations.heads[layer, index], expected, rtol=2e-4, atol=2e-4)
        for layer in range(2):  # the last of the hidden states has been through the final norm
            expected = states[layer + 1][0, -1].numpy()
            np.testing.assert_allclose(bench.activations.blocks[layer, index], expected, rtol=2e-4, atol=2e-4)


def test_batch_size_does_not_matter(tmp_path: Path) -> None:
    opened = session()
    texts = contrast_texts({"train": ROWS})
    for size in (1, 5):
        capture(opened, texts, tmp_path / f"h{size}.npy", tmp_path / f"b{size}.npy", batch_size=size)
    for kind in "hb":
        one, five = (np.load(tmp_path / f"{kind}{size}.npy") for size in (1, 5))
        np.testing.assert_allclose(one, five, rtol=1e-4, atol=1e-4)


def test_pairs_take_answers_of_a_question_in_order(tmp_path: Path) -> None:
    opened = session(objective="dpo", train=[dpo_row(i) for i in range(3)], validation=[dpo_row(7)])
    activations = fit_context(opened, tmp_path).activations
    assert activations.pairs("train").tolist() == [[0, 1], [3, 4], [6, 7]]
    assert activations.pairs("validation").tolist() == [[9, 10]]
    assert activations.among("train").sum() == 9
    assert activations.labels.tolist() == [1, 0, 0] * 4


def test_a_text_longer_than_the_model_reads_is_refused(tmp_path: Path) -> None:
    opened = session(overrides={"max_position_embeddings": 6})
    with pytest.raises(FitError, match=r"8 tokens exceed the 6 that the model reads"):
        fit_context(opened, tmp_path)


def test_a_failed_node_fails_what_reads_it(tmp_path: Path) -> None:
    write_json(tmp_path / "activations.json", {"status": "failed", "reason": "out of memory"})
    with pytest.raises(FitError, match="reading activations failed: out of memory"):
        read_activations(tmp_path)
