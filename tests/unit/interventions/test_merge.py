"""Folding into the weights, in memory."""

import warnings

import pytest
import torch
from peft import get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.testing import assert_close

from lofit.errors import EditError
from lofit.interventions import LofitConfig
from tests.tiny import FAMILIES, tiny_model, tiny_tokens

TOKENS = tiny_tokens()
HEADS = [(2, 3), (0, 1), (2, 0)]


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


def adapted(family="llama", base=None, **fields):
    fields = {"heads": HEADS, "scale": True, "offset": True, "init_std": 0.5, **fields}
    return get_peft_model(base or tiny_model(family), LofitConfig(**fields))


def assert_same_logits(left, right):
    assert (left - right).abs().max() <= 1e-4 * right.abs().max()


@pytest.mark.parametrize("heads", [HEADS, None], ids=["some", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_merging_keeps_the_edit_and_unmerging_restores_every_bit(family, heads):
    model = adapted(family, heads=heads)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    edit = logits(model)
    model.merge_adapter()
    merged = logits(model)
    assert_same_logits(merged, edit)
    model.unmerge_adapter()
    assert torch.equal(logits(model), edit)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("family", FAMILIES)
def test_merge_and_unload_gives_a_plain_model(family):
    model = adapted(family)
    edit = logits(model)
    plain = model.merge_and_unload()
    assert type(plain) is type(tiny_model(family))
    assert not any(isinstance(module, BaseTunerLayer) for module in plain.modules())
    assert not any("lofit" in name for name, _ in plain.named_parameters())
    assert_same_logits(logits(plain), edit)


def test_unload_gives_the_base_model_back_even_after_a_merge():
    model = adapted()
    model.merge_adapter()
    plain = model.unload()
    assert torch.equal(logits(plain), logits(tiny_model("llama")))
    assert list(plain.state_dict()) == list(tiny_model("llama").state_dict())


def test_disabling_a_merged_adapter_gives_the_base_model():
    model = adapted()
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(tiny_model("llama")))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("order", [["one", "two"], ["two", "one"]])
def test_two_adapters_merge_as_they_act_together(family, order):
    model = get_peft_model(
        tiny_model(family), LofitConfig(heads=HEADS, scale=True, offset=True, init_std=0.3, init_seed=1), "one"
    )
    model.add_adapter("two", LofitConfig(heads=[(1, 2), (2, 0)], offset=True, init_std=0.3, init_seed=2))
    model.base_model.set_adapter(order)
    both = logits(model)
    model.merge_adapter()
    assert_same_logits(logits(model), both)
    model.unmerge_adapter()
    assert torch.equal(logits(model), both)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT announces a merge on top of a merge
        for name in order:
            model.merge_adapter(adapter_names=[name])
    assert_same_logits(logits(model), both)
    model.unmerge_adapter()
    assert torch.equal(logits(model), both)


def test_a_factor_of_minus_one_can_be_undone():
    model = adapted(offset=False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.fill_(-1.0)
    edit = logits(model)
    model.merge_adapter()
    assert_same_logits(logits(model), edit)
    model.unmerge_adapter()
    assert torch.equal(logits(model), edit)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_scaling_factors_alone_add_no_bias(family):
    model = adapted(family, scale=True, offset=False, heads=None)
    plain = model.merge_and_unload()
    assert list(plain.state_dict()) == list(tiny_model(family).state_dict())
    assert not getattr(plain.config, "attention_bias", False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["scale", "offset"])
def test_safe_merge_refuses_what_is_not_finite_and_changes_nothing(kind, value):
    model = adapted()
    before = {name: tensor.clone() for name, tensor in tiny_model("llama").state_dict().items()}
    (last,) = [p for n, p in model.named_parameters() if f"layers.2.self_attn.o_proj.lofit_{kind}" in n]
    last.data[1, 3] = value
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(EditError, match="seems to be broken"):
            merge(safe_merge=True)
        assert list(model.peft_config) == ["default"]
        plain = {name.replace(".base_layer", ""): t for name, t in model.get_base_model().state_dict().items()}
        assert all(torch.equal(plain[name], before[name]) for name in before)
        assert not any(module.merged for module in model.modules() if isinstance(module, BaseTunerLayer))


def test_half_precision_merge_is_rounded_once():
    base = tiny_model("llama").to(torch.bfloat16)
    model = adapted(base=base)
    weight = base.model.layers[0].self_attn.o_proj.get_base_layer().weight
    scale, offset = (
        next(p.detach()[0] for n, p in model.named_parameters() if f"layers.0.self_attn.o_proj.lofit_{kind}" in n)
        for kind in ("scale", "offset")
    )
    old = weight.detach()[:, 8:16].double()
    plain = model.merge_and_unload()
    projection = plain.model.layers[0].self_attn.o_proj
    assert projection.weight.dtype == projection.bias.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: a result rounded once is within 2^-8 of the exact value.
    assert_close(projection.weight[:, 8:16].double(), old * (1 + scale.double()), rtol=2**-8, atol=0)
    assert_close(projection.bias.double(), old @ offset.double(), rtol=2**-8, atol=1e-6)


def test_quantized_weights_are_refused_before_anything_changes():
    base = tiny_model("llama")
    model = adapted(base=base)
    layer = base.model.layers[2].self_attn.o_proj.get_base_layer()
    layer.weight = torch.nn.Parameter(torch.zeros(32, 32, dtype=torch.int8), requires_grad=False)
    with pytest.raises(EditError, match=r"layers\.2\.self_attn\.o_proj is quantized"):
        model.merge_adapter()
    assert base.model.layers[0].self_attn.o_proj.bias is None
