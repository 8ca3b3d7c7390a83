import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

from lofit.errors import EditError
from lofit.interventions import find_site
from tests.by_hand import PROJECTIONS
from tests.tiny import FAMILIES, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family):
    model = tiny_model(family)
    site = find_site(model)
    path, width = PROJECTIONS[family]
    assert (site.n_layers, site.groups, site.width) == (3, 4, width)
    assert [site.module_name(layer) for layer in range(3)] == [path.format(layer) for layer in range(3)]
    assert isinstance(model.get_submodule(site.module_name(2)), nn.Module)


def test_adapters_of_other_methods_are_looked_through():
    model = tiny_model("llama")
    plain = find_site(model)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["o_proj", "q_proj"]))
    assert find_site(wrapped) == plain


def test_latent_attention_has_the_width_of_the_values():
    config = AutoConfig.for_model(
        "deepseek_v3", vocab_size=32, hidden_size=32, intermediate_size=16, moe_intermediate_size=8,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, n_routed_experts=4, n_group=1,
        topk_group=1, num_experts_per_tok=2, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4,
        qk_nope_head_dim=8, v_head_dim=6, first_k_dense_replace=1,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert find_site(model).width == 6


def test_an_image_encoder_with_as_many_layers_is_not_mistaken_for_the_language_model():
    model = tiny_model("llama")
    model.vision_tower = tiny_model("opt")
    assert find_site(model).layers == "model.layers"


def test_encoder_decoders_are_refused():
    config = T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
    with pytest.raises(EditError, match="encoder-decoder"):
        find_site(model)


def test_two_candidate_decoders_are_refused():
    model = tiny_model("llama")
    model.draft = tiny_model("llama")
    with pytest.raises(EditError, match=r"2 lists of 3 decoder layers"):
        find_site(model)


def test_models_without_configuration_are_refused():
    with pytest.raises(EditError, match="no transformers configuration"):
        find_site(nn.Linear(2, 2))


def test_attention_that_never_calls_its_projection_is_refused():
    model = tiny_model("llama")
    for block in model.model.layers:
        block.self_attn = nn.MultiheadAttention(32, 4)
    with pytest.raises(EditError, match="must have one attention output projection, found none"):
        find_site(model)


def test_layers_of_different_build_are_refused():
    model = tiny_model("llama")
    model.model.layers[1].self_attn.o_proj = nn.Linear(64, 32)
    with pytest.raises(EditError, match=r"model\.layers\.1 is not built like"):
        find_site(model)


def test_a_width_that_is_not_heads_times_head_dim_is_refused():
    model = tiny_model("llama")
    model.config.head_dim = 7
    with pytest.raises(EditError, match="reads 32 features, which is not 4 heads x 7"):
        find_site(model)


def test_a_norm_behind_the_feed_forward_layer_is_where_a_block_is_edited():
    config = {"attention_multiplier": 1.0, "residual_multiplier": 1.0, "num_key_value_heads": 2}
    assert find_site(tiny_model("hyperclovax", use_post_norm=True, **config), "block").suffix == "post_norm2"
    assert find_site(tiny_model("hyperclovax", use_post_norm=False, **config), "block").suffix == "mlp.down_proj"


def test_layers_that_scale_what_they_add_have_no_last_summand():
    widths = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
    with pytest.raises(EditError, match="changes what a layer adds to the residual stream"):
        find_site(tiny_model("minicpm3", **widths), "block")
