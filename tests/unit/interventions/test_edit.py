"""What an adapter does to the model: its arithmetic, its dtype, several adapters, training."""

import copy

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from torch.testing import assert_close

from lofit.errors import EditError
from lofit.interventions import LofitConfig, head_norms
from tests.by_hand import edited, vectors_of
from tests.tiny import FAMILIES, tiny_model, tiny_tokens

TOKENS = tiny_tokens()
HEADS = [(2, 3), (0, 1), (2, 0)]


def logits(model, tokens=TOKENS):
    with torch.no_grad():
        return model(tokens).logits


@pytest.mark.parametrize("heads", [HEADS, None], ids=["some", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_a_loop_over_heads_written_by_hand(family, heads):
    model = get_peft_model(
        tiny_model(family), LofitConfig(heads=heads, scale=True, offset=True, init_std=0.5, init_seed=1)
    )
    plain = tiny_model(family)
    base = logits(plain)
    scales, offsets = vectors_of(model, family, "scale"), vectors_of(model, family, "offset")
    assert set(scales) == set(offsets) == set(heads or [(layer, head) for layer in range(3) for head in range(4)])
    with edited(plain, family, scales, offsets):
        expected = logits(plain)
    assert (expected - base).abs().max() > 0.1
    assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_vectors_and_disabled_adapters_are_the_base_model_to_the_bit(family):
    base = logits(tiny_model(family))
    zero = get_peft_model(tiny_model(family), LofitConfig(scale=True, offset=True))
    assert torch.equal(logits(zero), base)
    model = get_peft_model(tiny_model(family), LofitConfig(scale=True, offset=True, init_std=0.5))
    assert not torch.equal(logits(model), base)
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert not torch.equal(logits(model), base)


@pytest.mark.parametrize(
    ("scale", "offset", "stored"),
    [(True, False, {"scale"}), (False, True, {"offset"}), (True, True, {"scale", "offset"})],
)
def test_only_the_vectors_asked_for_exist_and_train(scale, offset, stored):
    model = get_peft_model(tiny_model("llama"), LofitConfig(heads=HEADS, scale=scale, offset=offset))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split("lofit_")[1].split(".")[0] for name in trained} == stored
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == 24 * len(stored)


def test_initial_values_are_seeded_and_do_not_depend_on_the_selection():
    def vectors(**fields):
        state = torch.get_rng_state()
        model = get_peft_model(tiny_model("llama"), LofitConfig(scale=True, offset=True, **fields))
        assert torch.equal(torch.get_rng_state(), state)
        return vectors_of(model, "llama", "scale"), vectors_of(model, "llama", "offset")

    every = vectors(init_std=1e-3, init_seed=42)
    some = vectors(heads=HEADS, init_std=1e-3, init_seed=42)
    other = vectors(init_std=1e-3, init_seed=43)
    for kind in range(2):
        assert all(torch.equal(some[kind][pair], every[kind][pair]) for pair in HEADS)
        assert not torch.equal(other[kind][0, 0], every[kind][0, 0])
        assert not torch.equal(every[kind][0, 0], every[kind][1, 0])
        spread = torch.stack(list(every[kind].values())).std()
        assert 0.5e-3 < spread < 2e-3
    assert not torch.equal(every[0][0, 0], every[1][0, 0])


def test_l1_norm_of_the_reference_initialisation():
    # Number of factors of Llama-2-7B x 1e-3 x sqrt(2 / pi) is 104.6; the same law on this tiny model.
    model = get_peft_model(tiny_model("llama", num_hidden_layers=64), LofitConfig(init_std=1e-3, init_seed=42))
    count = 64 * 4 * 8
    total = sum(parameter.detach().abs().sum() for parameter in model.parameters() if parameter.requires_grad)
    assert float(total) == pytest.approx(count * 1e-3 * (2 / torch.pi) ** 0.5, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_vectors_stay_float32_on_a_half_precision_base(dtype):
    config = LofitConfig(heads=HEADS, scale=True, offset=True, init_std=1e-3)
    wide = vectors_of(get_peft_model(tiny_model("llama"), copy.deepcopy(config)), "llama", "scale")
    model = get_peft_model(tiny_model("llama").to(dtype), config, autocast_adapter_dtype=False)
    assert logits(model).dtype == dtype
    model.to(dtype)  # what an evaluation harness does to the whole model
    narrow = vectors_of(model, "llama", "scale")
    assert all(torch.equal(narrow[pair], wide[pair]) and narrow[pair].dtype == torch.float32 for pair in HEADS)
    with model.disable_adapter():
        base = logits(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.zero_()
    assert torch.equal(logits(model), base)


def two_adapters(family="llama"):
    model = get_peft_model(
        tiny_model(family), LofitConfig(heads=HEADS, scale=True, offset=True, init_std=0.3, init_seed=1), "one"
    )
    model.add_adapter("two", LofitConfig(heads=[(1, 2), (2, 0)], scale=True, offset=True, init_std=0.3, init_seed=2))
    return model


def by_hand(adapters):
    """Apply adapters so that the last one acts first on the input of the projection."""
    model = two_adapters()
    plain = tiny_model("llama")
    scales, offsets = {}, {}
    for adapter in reversed(adapters):
        a, v = (vectors_of(model, "llama", kind, adapter) for kind in ("scale", "offset"))
        for pair in a:
            before_a, before_v = scales.get(pair, torch.zeros(8)), offsets.get(pair, torch.zeros(8))
            scales[pair] = (1 + a[pair]) * (1 + before_a) - 1
            offsets[pair] = (1 + a[pair]) * before_v + v[pair]
    with edited(plain, "llama", scales, offsets):
        return logits(plain)


def test_switching_between_adapters_and_having_both_active():
    model = two_adapters()
    assert_close(logits(model), by_hand(["one"]), rtol=1e-5, atol=1e-5)
    model.set_adapter("two")
    assert_close(logits(model), by_hand(["two"]), rtol=1e-5, atol=1e-5)
    assert {n.rsplit(".", 1)[1] for n, p in model.named_parameters() if p.requires_grad} == {"two"}
    model.base_model.set_adapter(["one", "two"])
    assert_close(logits(model), by_hand(["one", "two"]), rtol=1e-5, atol=1e-5)
    assert (by_hand(["one", "two"]) - by_hand(["two", "one"])).abs().max() > 1e-3
    assert (by_hand(["one", "two"]) - by_hand(["one"])).abs().max() > 1e-2


def test_a_deleted_adapter_leaves_nothing_behind():
    model = two_adapters()
    model.merge_adapter()
    model.unmerge_adapter()
    model.delete_adapter("one")
    assert list(model.peft_config) == ["two"]
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, dict | list):
                assert "one" not in value, f"{name}.{attribute}"
    assert not [name for name, _ in model.named_parameters() if ".one" in name]
    model.set_adapter("two")
    assert_close(logits(model), by_hand(["two"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(reentrant):
    def gradients(checkpointing):
        base = tiny_model("llama").train()
        if checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model = get_peft_model(base, LofitConfig(heads=HEADS, scale=True, offset=True, init_std=0.1))
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain and all(gradient.abs().max() > 0 for gradient in plain.values())
    for name in plain:
        assert_close(checkpointed[name], plain[name])


def test_compiles_without_a_break_and_gives_the_same():
    for config in (
        LofitConfig(heads=HEADS, scale=True, offset=True, init_std=0.5),
        LofitConfig(site="ffn", init_std=0.5),
    ):
        model = get_peft_model(tiny_model("llama").requires_grad_(False), config).eval()
        expected = logits(model)
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        assert_close(logits(compiled), expected, rtol=1e-5, atol=1e-5)


def test_adapters_are_not_averaged():
    with pytest.raises(EditError, match="cannot be averaged; activate several"):
        two_adapters().add_weighted_adapter(["one", "two"], [0.5, 0.5], "both")


def test_cached_generation_is_edited_like_the_full_pass():
    model = get_peft_model(tiny_model("llama"), LofitConfig(heads=HEADS, offset=True, init_std=0.5))
    tokens = TOKENS[:1, :4]
    out = model.generate(input_ids=tokens, max_new_tokens=5, do_sample=False, eos_token_id=None)
    for _ in range(5):
        tokens = torch.cat([tokens, logits(model, tokens)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(out, tokens)


@pytest.mark.parametrize(("family", "leaf"), [("llama", "o_proj"), ("gemma", "o_proj"), ("phi", "dense")])
def test_scaling_factors_equal_ia3_on_the_input_of_the_projection(family, leaf):
    model = get_peft_model(tiny_model(family), LofitConfig(scale=True, init_std=0.5))
    ia3 = get_peft_model(tiny_model(family), IA3Config(target_modules=[leaf], feedforward_modules=[leaf]))
    scales = vectors_of(model, family, "scale")
    vectors = [parameter for name, parameter in ia3.named_parameters() if "ia3_l" in name]
    assert len(vectors) == 3
    for layer, vector in enumerate(vectors):
        vector.data = 1 + torch.cat([scales[layer, head] for head in range(4)])[None]
    assert_close(logits(model), logits(ia3), rtol=1e-6, atol=1e-6)


def test_norms_rank_heads():
    model = get_peft_model(tiny_model("llama"), LofitConfig(heads=HEADS, scale=True, offset=True, init_std=1.0))
    norms = head_norms(model)
    assert norms.shape == (3, 4)
    assert set(zip(*norms.nonzero(), strict=True)) == set(HEADS)
    scales, offsets = vectors_of(model, "llama", "scale"), vectors_of(model, "llama", "offset")
    for pair in HEADS:
        assert norms[pair] == pytest.approx(float(scales[pair].square().sum().sqrt()))
        assert head_norms(model, which="offset")[pair] == pytest.approx(float(offsets[pair].square().sum().sqrt()))


def test_lora_on_the_same_model_type_still_works():
    model = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules=["o_proj"]))
    assert torch.equal(logits(model), logits(tiny_model("llama")))
