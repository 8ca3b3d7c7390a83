"""The logit lens of offsets: against a direct product, and against what an edit does to the attention's output."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model

from lofit.errors import EditError
from lofit.interventions import LofitConfig, find_site, set_vectors
from lofit.interventions.tuner.lens import offset_lens
from tests.tiny import FAMILIES, HEADS, HIDDEN, tiny_model, tiny_tokens

LAYER = 1


def edited(family: str, heads: list[tuple[int, int]], seed: int = 0, **overrides: Any) -> tuple[Any, dict[Any, Any]]:
    model = tiny_model(family, **overrides)
    width = find_site(model).width
    peft = get_peft_model(model, LofitConfig(heads=heads, scale=False, offset=True, inference_mode=True))
    drawn = np.random.default_rng(seed)
    offsets = {head: drawn.normal(size=width).astype(np.float32) for head in heads}
    set_vectors(peft, offsets)
    return peft, offsets


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lens_reads_what_the_edit_adds_to_the_attentions_output(family: str) -> None:
    model, offsets = edited(family, [(LAYER, 2)])
    seen: list[torch.Tensor] = []
    projection = model.get_base_model().get_submodule(find_site(model).module_name(LAYER))
    handle = projection.register_forward_hook(lambda *call: seen.append(call[-1].detach()))
    with torch.no_grad():
        model(tiny_tokens())
        with model.disable_adapter():
            model(tiny_tokens())
    handle.remove()
    added = (seen[0] - seen[1])[0, 3]  # the same at every position
    unembedding = model.get_base_model().get_output_embeddings().weight
    expected = (unembedding @ added).softmax(0).topk(5)
    (found,) = offset_lens(model, 5)
    assert (found.layer, found.head) == (LAYER, 2)
    assert found.norm == pytest.approx(float(np.linalg.norm(offsets[LAYER, 2])))
    assert list(found.tokens) == expected.indices.tolist()
    assert found.probabilities == pytest.approx(expected.values.tolist(), rel=1e-3)


@pytest.mark.parametrize("tied", [False, True])
def test_a_direct_product_with_grouped_queries_and_tied_embeddings(tied: bool) -> None:
    heads = [(0, 3), (2, 0), (2, 3)]
    model, offsets = edited("llama", heads, tie_word_embeddings=tied)
    base = model.get_base_model()
    unembedding = (base.model.embed_tokens if tied else base.lm_head).weight.detach().double().numpy()
    norm = base.model.norm
    for final_norm in (False, True):
        found = offset_lens(model, 3, final_norm)
        assert [(entry.layer, entry.head) for entry in found] == heads
        for entry in found:
            weight = base.model.layers[entry.layer].self_attn.o_proj.get_base_layer().weight.detach().double().numpy()
            d = HIDDEN // HEADS
            added = weight[:, entry.head * d : (entry.head + 1) * d] @ offsets[entry.layer, entry.head]
            if final_norm:
                scale = np.sqrt((added**2).mean() + norm.variance_epsilon)
                added = added / scale * norm.weight.detach().double().numpy()
            logits = unembedding @ added
            best = np.argsort(-logits)[:3]
            assert list(entry.tokens) == best.tolist()
            chances = np.exp(logits[best]) / np.exp(logits).sum()
            assert entry.probabilities == pytest.approx(chances.tolist(), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_one_final_norm(family: str) -> None:
    model, _ = edited(family, [(0, 0)])
    (plain,), (normed,) = offset_lens(model), offset_lens(model, final_norm=True)
    assert plain.probabilities != normed.probabilities


def test_what_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = edited("llama", [(0, 0)])
    monkeypatch.setattr(type(model.get_base_model()), "get_output_embeddings", lambda self: None)
    with pytest.raises(EditError, match="has no unembedding"):
        offset_lens(model)
    monkeypatch.undo()
    scaled = get_peft_model(tiny_model("llama"), LofitConfig(heads=[(0, 0)], scale=True, offset=False))
    with pytest.raises(EditError, match="no offsets on heads"):
        offset_lens(scaled)
