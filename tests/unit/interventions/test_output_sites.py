"""Edits of the feed-forward output and of the residual stream: arithmetic, merging, files."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from lofit.errors import EditError
from lofit.interventions import LofitConfig, export_merged, find_site, set_vectors
from tests.by_hand import FFN, PROJECTIONS, outputs_edited
from tests.tiny import FAMILIES, tiny_model, tiny_tokens

TOKENS = tiny_tokens()
LAYERS = [2, 0]
# Where a norm stands between the feed-forward network and the residual stream, or no bias fits, nothing can be folded.
NORMED = ("gemma2", "gemma3_text", "olmo2")
NO_FFN_BIAS = ("gemma", "gemma2", "gemma3_text", "olmo2", "qwen3")


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


def adapted(family, site, **fields):
    fields = {"layers": LAYERS, "scale": site == "ffn", "offset": True, "init_std": 0.5, **fields}
    return get_peft_model(tiny_model(family), LofitConfig(site=site, **fields))


def vectors_of(model, kind):
    """Layer to vector, by parameter name."""
    found = {}
    for name, parameter in model.named_parameters():
        if f"lofit_{kind}" in name:
            layer = next(int(part) for part in name.split(".") if part.isdigit())
            found[layer] = parameter.detach()[0].clone()
    return found


@pytest.mark.parametrize("layers", [LAYERS, None], ids=["some", "all"])
@pytest.mark.parametrize("site", ["ffn", "block"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_hooks_written_by_hand(family, site, layers):
    model = adapted(family, site, layers=layers)
    scales, offsets = vectors_of(model, "scale"), vectors_of(model, "offset")
    assert set(offsets) == set(layers or range(3))
    assert set(scales) == (set(offsets) if site == "ffn" else set())
    path = FFN[family] if site == "ffn" else PROJECTIONS[family][0].split("{}")[0] + "{}"
    plain = tiny_model(family)
    base = logits(plain)
    with outputs_edited(plain, path, scales, offsets):
        expected = logits(plain)
    assert (expected - base).abs().max() > 0.1
    assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    with model.disable_adapter():
        assert torch.equal(logits(model), base)


@pytest.mark.parametrize("site", ["ffn", "block"])
@pytest.mark.parametrize("family", FAMILIES)
def test_zero_vectors_are_the_base_model_to_the_bit(family, site):
    assert torch.equal(logits(adapted(family, site, init_std=0.0)), logits(tiny_model(family)))


@pytest.mark.parametrize("site", ["ffn", "block"])
@pytest.mark.parametrize("family", FAMILIES)
def test_merging_keeps_the_edit_and_unmerging_restores_every_bit(family, site):
    model = adapted(family, site)
    edit = logits(model)
    if site == "block" and family in NORMED:
        with pytest.raises(EditError, match=r"post_feedforward_layernorm is a \w+RMSNorm, which cannot hold the edit"):
            model.merge_adapter()
        assert torch.equal(logits(model), edit)
        return
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.merge_adapter()
    assert_close(logits(model), edit, rtol=1e-4, atol=1e-4)
    model.unmerge_adapter()
    assert torch.equal(logits(model), edit)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before) and len(after) == len(before)


@pytest.mark.parametrize("site", ["ffn", "block"])
@pytest.mark.parametrize("family", FAMILIES)
def test_export_is_a_plain_checkpoint_or_one_clear_line(family, site, tmp_path):
    model = adapted(family, site)
    edit = logits(model)
    if family in NO_FFN_BIAS:
        with pytest.raises(EditError, match="keep the adapter"):
            export_merged(model, tmp_path / "merged")
        assert list(tmp_path.iterdir()) == []
        model.save_pretrained(tmp_path / "adapter")
        loaded = PeftModel.from_pretrained(tiny_model(family), tmp_path / "adapter")
        assert torch.equal(logits(loaded), edit)
        return
    export_merged(model, tmp_path / "merged")
    plain, info = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (logits(plain) - edit).abs().max() <= 1e-4 * edit.abs().max()


@pytest.mark.parametrize("family", ["llama", "mistral", "granite", "gpt2"])
def test_edits_of_all_sites_stack_merge_and_export(family, tmp_path):
    model = get_peft_model(
        tiny_model(family), LofitConfig(heads=[(0, 1), (2, 3)], offset=True, init_std=0.3, init_seed=1), "head"
    )
    model.add_adapter("ffn", LofitConfig(site="ffn", offset=True, init_std=0.3, init_seed=2))
    block = LofitConfig(site="block", layers=[1], scale=False, offset=True, init_std=0.3, init_seed=3)
    model.add_adapter("block", block)
    single = {}
    for name in ("head", "ffn", "block"):
        model.set_adapter(name)
        single[name] = logits(model)
    model.base_model.set_adapter(["head", "ffn", "block"])
    together = logits(model)
    assert all((together - alone).abs().max() > 0.01 for alone in single.values())
    model.merge_adapter()
    assert_close(logits(model), together, rtol=1e-4, atol=1e-4)
    model.unmerge_adapter()
    assert torch.equal(logits(model), together)
    export_merged(model, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert_close(logits(plain), together, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path / "adapters")
    loaded = PeftModel.from_pretrained(tiny_model(family), tmp_path / "adapters" / "head", "head")
    for name in ("ffn", "block"):
        loaded.load_adapter(tmp_path / "adapters" / name, name)
        loaded.set_adapter(name)
        assert torch.equal(logits(loaded), single[name])


@pytest.mark.parametrize("order", [["one", "two"], ["two", "one"]])
def test_two_scalings_of_one_output_merge_as_they_act(order):
    model = get_peft_model(tiny_model("llama"), LofitConfig(site="ffn", offset=True, init_std=0.4, init_seed=1), "one")
    model.add_adapter("two", LofitConfig(site="ffn", offset=True, init_std=0.4, init_seed=2))
    model.base_model.set_adapter(order)
    together = logits(model)
    model.merge_adapter()
    assert_close(logits(model), together, rtol=1e-4, atol=1e-4)


def test_offsets_can_be_set_and_only_those_that_exist():
    model = adapted("llama", "block")
    width = find_site(model, "block").width
    vectors = {(layer, 0): torch.full((width,), float(layer + 1)).numpy() for layer in LAYERS}
    set_vectors(model, vectors)
    assert all((vector == layer + 1).all() for layer, vector in vectors_of(model, "offset").items())
    with pytest.raises(EditError, match="no offset is given for layer 2"):
        set_vectors(model, {(0, 0): vectors[0, 0]})
    with pytest.raises(EditError, match=r"does not edit \(1, 0\)"):
        set_vectors(model, vectors | {(1, 0): vectors[0, 0]})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"site": "mlp"}, "site must be one of head, ffn, block"),
        ({"site": "block", "offset": True}, "offsets only"),
        ({"site": "ffn", "heads": [(0, 0)]}, "selected by layers, not by heads"),
        ({"site": "head", "layers": [0]}, "selected by heads, not by layers"),
        ({"site": "ffn", "layers": []}, "layers is empty"),
        ({"site": "ffn", "layers": [1, 1]}, "twice"),
        ({"site": "ffn", "layers": [-1]}, "whole numbers from 0"),
    ],
)
def test_meaningless_configurations(fields, message):
    with pytest.raises(EditError, match=message):
        LofitConfig(**fields)


def test_layers_the_model_does_not_have():
    with pytest.raises(EditError, match="layers names 3, but the model has layers 0 to 2"):
        adapted("llama", "ffn", layers=[0, 3])


def test_mixtures_of_experts_and_post_norm_models_are_refused():
    experts = tiny_model("mixtral", num_key_value_heads=2, num_local_experts=2)
    with pytest.raises(EditError, match="must have one feed-forward down projection, found"):
        get_peft_model(experts, LofitConfig(site="ffn"))
    post_norm = tiny_model("opt", ffn_dim=48, word_embed_proj_dim=32, dropout=0.0, do_layer_norm_before=False)
    with pytest.raises(EditError, match="normalises after the residual sum"):
        get_peft_model(post_norm, LofitConfig(site="block", scale=False, offset=True))
