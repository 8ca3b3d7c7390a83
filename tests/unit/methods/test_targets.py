"""PEFT's methods on every family: on the language model alone, in all its layers, or one line that says what to do."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from lofit.errors import EditError
from lofit.interventions.tuner.sites import linear_features
from lofit.methods import ia3, load_method, lora, vera
from lofit.models.adapters import load_adapter
from lofit.models.session import Session
from lofit.training.trainer import wrap
from tests.sessions import fit_context, session
from tests.tiny import FAMILIES, tiny_tokens

TEXT = {
    "num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 259, "query_pre_attn_scalar": 16,
}  # fmt: skip
VISION = {
    "num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 16, "n_routed_experts": 2, "num_experts_per_tok": 1, "first_k_dense_replace": 1}
LATENT = {"kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8, "head_dim": 4}
# What tests.tiny has no configuration of: stacked experts, a vision tower of as many layers, latent attention with and
# without low-rank queries, fused projections.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", {"num_local_experts": 2, "num_key_value_heads": 2}),
    "qwen3_moe": (
        "qwen3_moe",
        {"num_key_value_heads": 2, "head_dim": 16, "num_experts": 2, "num_experts_per_tok": 1} | EXPERTS,
    ),
    "gemma3 with images": ("gemma3", {"text_config": TEXT, "vision_config": VISION, "mm_tokens_per_image": 4}),
    "deepseek_v2": ("deepseek_v2", {"q_lora_rank": 8, **LATENT, **EXPERTS}),
    "deepseek_v2 lite": ("deepseek_v2", {"q_lora_rank": None, **LATENT, **EXPERTS}),
    "phi3": ("phi3", {"num_key_value_heads": 2}),
    "falcon": ("falcon", {}),
    "bloom": ("bloom", {}),
}
EVERY = {family: (family, {}) for family in FAMILIES} | OTHERS


ADAPTERS = {
    "lora": lora.adapter, "dora": partial(lora.adapter, use_dora=True), "vera": vera.adapter, "ia3": ia3.adapter,
}  # fmt: skip

Q, K, V = "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"
QB, KVB = "self_attn.q_b_proj", "self_attn.kv_b_proj"
DOWN, SHARED = ("mlp.down_proj",), ("mlp.shared_experts.down_proj",)


def fused(name: str, inside: str) -> dict[str, Any]:
    return {"lora": ((name,), ()), "vera": ((name,), ()), "ia3": ((name,), (inside,))}


# By method, modules of a layer whose outputs are edited, and those of the feed-forward network whose inputs are scaled.
LLAMA = {"lora": ((Q, V), ()), "vera": ((Q, V), ()), "ia3": ((K, V), DOWN)}
QUERIES = LLAMA | {"ia3": ((Q, V), DOWN)}  # PEFT scales queries instead of keys there
EXPECTED: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text", "qwen2", "qwen3"), QUERIES),
    "gemma3 with images": QUERIES,
    "gpt2": fused("attn.c_attn", "mlp.c_proj"),
    "gpt_neox": fused("attention.query_key_value", "mlp.dense_4h_to_h"),
    "opt": LLAMA | {"ia3": ((Q, K), ("fc2",))},
    "phi": LLAMA | {"lora": ((Q, V, "mlp.fc1", "mlp.fc2"), ()), "ia3": ((Q, V), ("mlp.fc2",))},
    **dict.fromkeys(("mixtral", "qwen3_moe"), LLAMA | {"ia3": ((K, V), ())}),
    "deepseek_v2": {"lora": ((QB, KVB), ()), "vera": ((QB, KVB), ()), "ia3": ((KVB,), SHARED)},
    "deepseek_v2 lite": {"lora": ((Q, KVB), ()), "vera": ((Q, KVB), ()), "ia3": ((KVB,), SHARED)},
    "phi3": fused("self_attn.qkv_proj", "mlp.down_proj"),
    "falcon": fused("self_attention.query_key_value", "mlp.dense_4h_to_h"),
    "bloom": fused("self_attention.query_key_value", "mlp.dense_4h_to_h"),
}
LAYERS = {
    "gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers", "opt": "model.decoder.layers", "falcon": "transformer.h",
    "bloom": "transformer.h", "gemma3 with images": "model.language_model.layers",
}  # fmt: skip


def opened(name: str) -> Session:
    family, overrides = EVERY[name]
    return session(family, overrides)


def config_of(method: str, model: PreTrainedModel, **params: Any) -> Any:
    """What a method gives PEFT; rank 4 for those that have one."""
    kind = load_method(method).Params
    ranks = {"rank": 4} if "rank" in kind.model_fields else {}
    bench = fit_context(replace(session(), model=model))
    return ADAPTERS[method](kind(lr=1, **ranks, **params), bench)


def adapted(name: str, method: str, **params: Any) -> PeftModel:
    """The model with a fresh adapter of a method."""
    made = opened(name)
    return wrap(made, config_of(method, made.model, **params))


def targets(model: PeftModel) -> set[str]:
    """Paths of the adapted modules."""
    return {path for path, module in model.get_base_model().named_modules() if isinstance(module, BaseTunerLayer)}


@pytest.mark.parametrize("method", ["lora", "dora", "vera", "ia3"])
@pytest.mark.parametrize("name", EVERY)
def test_the_language_model_is_adapted_in_every_layer_and_nothing_else(name: str, method: str, tmp_path: Path) -> None:
    layers = LAYERS.get(name, "model.layers")
    attention, inside = EXPECTED.get(name, LLAMA)["lora" if method == "dora" else method]
    plain = opened(name).model
    wanted = {
        f"{layers}.{layer}.{end}": (linear_features(plain.get_submodule(f"{layers}.{layer}.{end}")), end in inside)
        for layer in range(3)
        for end in (*attention, *inside)
        if not (name.startswith("deepseek") and layer == 0 and end in inside)  # its first layer has no experts
    }
    if name.startswith("deepseek") and method == "ia3":
        wanted[f"{layers}.0.mlp.down_proj"] = (48, 32), True
    model = adapted(name, method)
    assert targets(model) == set(wanted)
    count = {
        "lora": lambda shape, _: 4 * sum(shape),
        "dora": lambda shape, _: 4 * sum(shape) + shape[1],
        "vera": lambda shape, _: 4 + shape[1],
        "ia3": lambda shape, feed_forward: shape[0] if feed_forward else shape[1],
    }[method]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == sum(count(*module) for module in wanted.values())

    with torch.no_grad():
        before = model(tiny_tokens()).logits
        for parameter in trained.values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    after = model(tiny_tokens()).logits
    assert (after - before).abs().max() > 1e-4
    after.square().sum().backward()
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []  # all take part

    model.save_pretrained(tmp_path)
    with torch.no_grad():
        again = load_adapter(opened(name).model, tmp_path)
        assert torch.equal(again(tiny_tokens()).logits, after)
        assert targets(again) == set(wanted)


@pytest.mark.parametrize("method", ["lora", "dora", "vera", "ia3", "bitfit"])
@pytest.mark.parametrize("name", ["mixtral", "gemma3 with images", "deepseek_v2", "phi3"])
def test_it_is_fitted(name: str, method: str) -> None:
    found = load_method(method)
    assert found.fit is not None
    made = opened(name)
    fitted = found.fit(fit_context(made), found.Params(lr=0.02, epochs=1, batch_size=4))
    assert fitted.record["train_loss"]
    layers = LAYERS.get(name, "model.layers")
    assert targets(fitted.model)
    assert all(path.startswith(f"{layers}.") for path in targets(fitted.model))


@pytest.mark.parametrize("method", ["lora", "dora", "vera", "ia3"])
def test_named_modules_are_those_of_the_language_model_too(method: str) -> None:
    names = ("self_attn.o_proj", "k_proj")
    model = adapted("gemma3 with images", method, target_modules=names)
    ends = ("self_attn.o_proj", "self_attn.k_proj")
    assert targets(model) == {f"model.language_model.layers.{layer}.{end}" for layer in range(3) for end in ends}
    one = adapted("gemma3 with images", method, target_modules=("language_model.layers.1.self_attn.k_proj",))
    assert targets(one) == {"model.language_model.layers.1.self_attn.k_proj"}


def test_a_named_down_projection_is_scaled_at_its_input() -> None:
    model = adapted("llama", "ia3", target_modules=("up_proj", "down_proj"))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 3 * (48 + 48)


@pytest.mark.parametrize("method", ["lora", "dora", "vera", "ia3"])
@pytest.mark.parametrize(
    ("name", "wrong", "has"),
    [
        ("llama", "q_prj", "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"),
        ("llama", "lm_head", "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"),
        ("llama", "mlp", "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"),
        ("gemma3 with images", "fc1", "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"),
        ("mixtral", "w1", "k_proj, o_proj, q_proj, v_proj"),
    ],
)
def test_a_name_that_is_not_there_is_one_line_with_those_that_are(name: str, wrong: str, has: str, method: str) -> None:
    with pytest.raises(EditError) as error:
        adapted(name, method, target_modules=("o_proj", wrong))
    text = str(error.value)
    assert f"has no linear map '{wrong}' in its layers; set params: {{target_modules: [...]}}; it has {has}" in text


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("name", ["down_proj", "gate_proj"])
def test_what_peft_would_take_for_stacked_experts_is_refused(method: str, name: str) -> None:
    with pytest.raises(EditError, match=rf"takes one of o_proj, {name} for the fused experts.*target_modules"):
        adapted("deepseek_v2", method, target_modules=("o_proj", name))


@pytest.mark.parametrize("method", ["lora", "dora", "vera", "ia3"])
def test_a_family_with_names_of_its_own_is_one_line_with_the_remedy(method: str) -> None:
    made = opened("smollm3")
    for block in made.model.model.layers:
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(block.self_attn, f"my_{name[0]}", getattr(block.self_attn, name))
            delattr(block.self_attn, name)
    remedy = "set params: {target_modules: [...]}; it has down_proj, gate_proj, my_k, my_q, my_v, o_proj, up_proj"
    with pytest.raises(EditError, match=r"has no (query|key) and value projection of a name that is known") as error:
        config_of(method, made.model)
    assert remedy in str(error.value)
    assert targets(wrap(made, config_of(method, made.model, target_modules=("my_q",)))) == {
        f"model.layers.{layer}.self_attn.my_q" for layer in range(3)
    }


def test_a_draft_model_beside_the_model_is_one_line() -> None:
    made = opened("llama")
    made.model.draft = opened("llama").model
    with pytest.raises(
        EditError, match=r"2 lists of decoder layers with q_proj, v_proj .*pass the language model alone"
    ):
        config_of("lora", made.model)
    made.model.vision_tower = made.model.draft
    del made.model.draft
    for method in ("lora", "vera", "ia3"):
        assert all(path.startswith("model.layers.") for path in targets(wrap(made, config_of(method, made.model))))
        made.model = opened("llama").model
        made.model.vision_tower = opened("llama").model
