"""Every trained method: it learns, repeats itself, is saved and read back, and has the parameters its formula says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from lofit import methods
from lofit.config import parse_config
from lofit.errors import ConfigError, EditError
from lofit.interventions import export_merged, find_site, head_norms, parameter_counts
from lofit.interventions.loreft.layer import PostBlockEdit
from lofit.methods import load_method, method_names, peft
from lofit.models.adapters import load_fitted
from lofit.packing.forward import answer_logits, run
from lofit.packing.rows import unpacked
from lofit.spec.hyperparameters import TrainParams
from lofit.training.cached_prefix import first_trained_layer
from tests.by_hand import edited
from tests.checkpoint import save_checkpoint
from tests.sessions import fit_context, session
from tests.tiny import tiny_model, tiny_tokens
from tests.unit.test_config import GOOD

L, H, D, d, KV, F = 3, 4, 32, 8, 16, 48  # layers, heads, hidden, head dimension, key-value width, feed-forward width
# Values stored for the tiny Llama, by the formulas of docs/methods.md.
STORED = {
    "bias_all_heads": L * H * d,
    "red": 2 * L * H * d,
    "red_half": 2 * 2 * H * d,  # layers 1 and 2 of 0 to 2
    "red_ffn": 2 * L * D,
    "jola": 2 * L * H * d,
    "loreft": L * (2 * 8 * D + 8),
    "lora": L * 8 * ((D + D) + (D + KV)),
    "dora": L * (8 * ((D + D) + (D + KV)) + D + KV),
    "vera": L * ((256 + D) + (256 + KV)),
    "ia3": L * (KV + KV + F),
    "bitfit": L * (D + KV + KV + D + F + F + D),
    "peft": L * 4 * ((D + D) + (D + KV)),
    "post_block": L * (2 * 8 * D + D),
    "post_block_vector": L * D,
    "bipo": D,
    "pissa": 2 * L * 8 * ((D + D) + (D + KV)),
    "rslora": L * 8 * ((D + D) + (D + KV)),
    "oft": L * 2 * (D * (8 - 1) // 2),
    "boft": L * (2 * D * 4 + D + KV),
    "hra": L * 2 * 8 * D,
    "miss": L * 8 * (D + KV),
    "randlora": L * (8 * 4 + 8 * D + 4 * 4 + 4 * KV),
    "shira": 3 * L * 8 * ((D + D) + (D + KV)),  # with row and column of every value
    "c3a": L * (D * D + D * KV) // 16,
    "road": L * (D + KV),
    "ln_tuning": L * 2 * D,
    "fourierft": L * 2 * 20,
    "hira": L * 8 * ((D + D) + (D + KV)),
    "beft": L * KV,
    "prompt_tuning": 5 * D,
    "prefix_tuning": 2 * L * 5 * KV,
    "p_tuning": 5 * D,
    "full": sum(p.numel() for p in tiny_model("llama", vocab_size=259).parameters()),
}
TRAINED = [
    name
    for name in method_names()
    if issubclass((method := load_method(name)).Params, TrainParams) and not method.localizer
]
"""Trained methods that edit no selected heads."""


def test_every_counted_method_is_tested_here() -> None:
    assert set(STORED) <= set(TRAINED)


VALUES = {
    "pissa": STORED["pissa"] // 2,
    "jola": STORED["jola"] + 2 * L * H,  # its gates are not stored
    "shira": STORED["shira"] // 3,
    "p_tuning": 5 * D + 3 * (D * D + D),  # with linear maps of the same width
    "prefix_tuning": 5 * KV + (KV + 1) * 8 + (8 + 1) * 2 * L * KV,  # with an MLP of 8 hidden units
}
"""Values that are trained, where they are not all that is stored."""
SMALL: dict[str, dict[str, Any]] = {
    "peft": {"peft_type": "LORA", "r": 4},
    "oft": {"oft_block_size": 8},
    "miss": {"r": 8},
    "randlora": {"r": 4},
    "c3a": {"block_size": 16},
    "road": {"group_size": 8},
    "fourierft": {"n_frequency": 20},
    "prompt_tuning": {"num_virtual_tokens": 5},
    "prefix_tuning": {"num_virtual_tokens": 5, "encoder_hidden_size": 8},
    "p_tuning": {"num_virtual_tokens": 5},
}
"""What in the configuration of a type of PEFT is smaller here, for a tiny model."""


PEFT = [name for name in TRAINED if name == "pissa" or issubclass(load_method(name).Params, peft.Params)]
LINEAR_ALONE = ("beft", "boft", "c3a", "hra", "miss", "oft", "road", "shira")
"""Types that PEFT makes for linear layers alone, which GPT-2 writes otherwise."""


def fit(name: str, opened: Any, **changes: Any) -> Any:
    method = load_method(name)
    assert method.fit is not None
    values = {"lr": 0.02, "epochs": 6, "batch_size": 4} | changes
    if small := SMALL.get(name):
        default = method.Params.model_fields["config"].default
        values["config"] = (default if isinstance(default, dict) else {}) | small
    return method.fit(fit_context(opened), method.Params(**values))


@pytest.mark.parametrize("name", TRAINED)
def test_it_learns_and_repeats_itself_and_counts_as_its_formula(name: str, tmp_path: Path) -> None:
    fitted, again = fit(name, session()), fit(name, session())
    losses = fitted.record["validation_loss"]
    assert losses[-1] < losses[0]
    assert fitted.record["train_loss"] == again.record["train_loss"]
    stored = STORED[name] if name == "full" else parameter_counts(fitted.model)["stored"]
    assert stored == STORED.get(name, stored)
    assert fitted.record["trained_params"] == VALUES.get(name, stored)
    # Read back on the model from disk, it computes the same.
    save_checkpoint(tmp_path / "model", max_position_embeddings=128)
    fitted.model.save_pretrained(tmp_path / "fitted")
    model = load_fitted(tmp_path / "model", tmp_path / "fitted", torch.device("cpu"), torch.float32)
    from lofit.models.encoding import encode

    batch = unpacked([encode(session().tokenizer, "3+3=", " 6")], 0, torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(answer_logits(model, batch), answer_logits(fitted.model, batch))


@pytest.mark.parametrize("name", sorted(set(TRAINED) - {"full", "bitfit"}))
@pytest.mark.parametrize("family", ["gpt2", "gemma", "qwen2", "phi", "olmo2"])
def test_it_acts_on_other_families(name: str, family: str) -> None:
    if family == "gpt2" and name in LINEAR_ALONE:
        with pytest.raises(EditError, match=r"does not fit GPT2LMHeadModel: .*Conv1D"):
            fit(name, session(family))
        return
    fitted = fit(name, opened := session(family), epochs=2)  # fit ends with a check that the edit is live
    assert fitted.record["train_loss"]
    assert opened.model is not None


def assert_tokens_see_neither_later_ones_nor_other_rows(model: Any) -> None:
    """Else scores would depend on what is packed or batched together."""
    tokens = tiny_tokens(batch=1)
    other = torch.cat([tokens[:, :4], tokens[:, 4:].flip(1) + 1], 1)
    expected = logits(model, tokens)[:, :4]
    assert_close(logits(model, other)[:, :4], expected, rtol=1e-4, atol=1e-5)
    assert_close(logits(model, torch.cat([tokens, other]))[:1, :4], expected, rtol=1e-4, atol=1e-5)


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = run(model, tokens).logits
    return found


@pytest.mark.parametrize("name", PEFT)
def test_a_type_of_peft_switched_off_is_the_base_and_merged_computes_the_same(name: str, tmp_path: Path) -> None:
    tokens, base = tiny_tokens(), session().model
    fitted = fit(name, session()).model
    with torch.no_grad():
        with fitted.disable_adapter():
            assert torch.equal(logits(fitted, tokens), base(tokens).logits)
        expected = logits(fitted, tokens)
        assert_tokens_see_neither_later_ones_nor_other_rows(fitted)
        assert not torch.allclose(expected, base(tokens).logits, atol=1e-4)
        if not load_method(name).foldable:
            with pytest.raises(EditError, match=r"cannot be merged \(.*\); keep it|no place for the bias"):
                export_merged(fitted, tmp_path / "out")
            return
        export_merged(fitted, tmp_path / "out")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        torch.testing.assert_close(plain(tokens).logits, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": 8}, "peft_type must be one of BEFT, BOFT"),
        ({"peft_type": "LORRA"}, "peft_type must be one of"),
        ({"peft_type": "CPT"}, "peft_type CPT does not fit: it has a loss of its own"),
        ({"peft_type": "MULTITASK_PROMPT_TUNING"}, "it takes inputs that no task here has"),
        ({"peft_type": "ADAPTION_PROMPT"}, "it replaces the attention of a few families alone"),
        ({"peft_type": "CARTRIDGE"}, "it stands for one long text"),
        ({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING needs num_virtual_tokens, 1 or more"),
        ({"peft_type": "P_TUNING", "num_virtual_tokens": 2.0}, "P_TUNING needs num_virtual_tokens, 1 or more"),
        (
            {"peft_type": "P_TUNING", "num_virtual_tokens": 2, "encoder_dropout": 0.1},
            "'encoder_dropout' is drawn outside",
        ),
        (
            {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2, "prompt_tuning_init": "TEXT"},
            "prompt_tuning_init must be RANDOM or SAMPLE_VOCAB; TEXT asks the hub for a tokenizer",
        ),
        ({"peft_type": ["LORA"]}, "peft_type must be one of"),
        ({"peft_type": "LILY"}, "its router averages over all tokens of a batch"),
        ({"peft_type": "LORA", "inference_mode": True}, "'inference_mode' is not part of it"),
        ({"peft_type": "ADALORA"}, "ranks or masks change while it trains"),
        ({"peft_type": "LORA", "lora_alfa": 8}, "unknown field of LORA 'lora_alfa'; did you mean 'lora_alpha'"),
        ({"peft_type": "LORA", "target_modules": ["q_proj"]}, "'target_modules' is not part of it"),
        ({"peft_type": "LORA", "init_lora_weights": "pissa"}, "'pissa' changes the base model"),
        ({"peft_type": "LORA", "alora_invocation_tokens": [1, 2]}, "'alora_invocation_tokens' makes LoRA read"),
        ({"peft_type": "LOHA", "module_dropout": 0.1}, "drawn outside the seeds of a run; leave it at 0"),
    ],
)
def test_what_is_wrong_with_a_type_of_peft_is_told_before_anything_runs(config: Any, message: str) -> None:
    given = GOOD | {"methods": {"base": None, "peft": {"params": {"config": config}}}}
    with pytest.raises(ConfigError, match=rf"methods\.peft\.params\.config: .*{message}"):
        parse_config(given)


def test_virtual_tokens_are_not_of_modules() -> None:
    with pytest.raises(ValueError, match="peft_type P_TUNING adapts no modules; leave out target_modules"):
        load_method("p_tuning").Params(lr=0.1, target_modules=("q_proj",))


@pytest.mark.parametrize("form", ["linear", "silu"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_post_block_is_its_formula(form: str, family: str) -> None:
    fitted = fit("post_block", session(family), form=form, rank=2, epochs=1).model
    edits = [module for module in fitted.modules() if isinstance(module, PostBlockEdit)]
    plain, tokens = session(family).model, tiny_tokens()
    layers: Any = plain.get_submodule(find_site(plain).layers)
    for layer, edit in zip(layers, edits, strict=True):

        def hook(module: Any, inputs: Any, output: Any, edit: Any = edit) -> Any:
            h = output if isinstance(output, torch.Tensor) else output[0]
            low = h @ edit.w.T
            h = h + (low @ edit.u.T + edit.b if form == "linear" else (low * low.sigmoid()) @ edit.u.T)
            return h if isinstance(output, torch.Tensor) else (h, *output[1:])

        layer.register_forward_hook(hook)
    with torch.no_grad():
        assert_close(fitted(tokens).logits, plain(tokens).logits, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(fitted(tokens).logits, session(family).model(tokens).logits, atol=1e-4)
    with pytest.raises(EditError, match="cannot be merged"):
        fitted.merge_and_unload()


def test_pissa_starts_as_pefts_does() -> None:
    """The same function, and the same gradients of the trained factors, without changing the weights."""
    from lofit.methods.pissa import _begin

    tokens, models = tiny_tokens(), []
    for config in (LoraConfig(r=4, lora_alpha=4, init_lora_weights="pissa"), LoraConfig(r=8, lora_alpha=8)):
        models.append(get_peft_model(session().model, config).eval())
    _begin(models[1], rank=4)
    for model in models:
        model(tokens).logits.square().mean().backward()
    theirs, ours = (dict(model.named_parameters()) for model in models)
    assert_close(models[1](tokens).logits, models[0](tokens).logits, rtol=1e-4, atol=1e-5)
    for name, factor in theirs.items():
        if factor.grad is not None:
            mine, gradient = ours[name], factor.grad
            first, rest = (mine.grad[:4], mine.grad[4:]) if "lora_A" in name else (mine.grad[:, :4], mine.grad[:, 4:])
            assert_close(first, gradient, rtol=1e-3, atol=1e-6)
            assert not rest.any()


OTHER_TYPES: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in ("DEFT", "DELORA", "FROD", "GLORA", "GRALORA", "LOHA", "LOKR", "OSF", "PEANUT")},
    **{kind: {} for kind in ("SUPERTUNING", "TINYLORA")},
    "PSOFT": {"r": 8},
    "UNILORA": {"r": 2, "theta_d_length": 64},
    "VBLORA": {"vector_length": 16, "num_vectors": 8, "topk": 2},
    "WAVEFT": {"n_frequency": 20},
}
"""Types of PEFT that no method of this suite is made of, with what has to be smaller here."""


def test_every_type_of_peft_is_tried_or_refused() -> None:
    methods_of = [
        load_method(name).Params.model_fields["config"].default for name in PEFT if name not in ("peft", "pissa")
    ]
    ours = {config["peft_type"] for config in methods_of} | {"IA3", "VERA"}
    kinds = {str(getattr(kind, "value", kind)) for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert kinds == ours | set(OTHER_TYPES) | set(peft.REFUSED)
    assert not (ours | set(OTHER_TYPES)) & set(peft.REFUSED)


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_other_types_of_peft_learn_repeat_themselves_and_are_read_back(kind: str, tmp_path: Path) -> None:
    config, tokens, base = {"peft_type": kind, **OTHER_TYPES[kind]}, tiny_tokens(), session().model
    method = load_method("peft")
    assert method.fit
    params = method.Params(lr=0.02, epochs=3, batch_size=4, config=config)
    fitted, again = (method.fit(fit_context(session()), params) for _ in range(2))
    losses = fitted.record["validation_loss"]
    assert losses[-1] < losses[0]
    assert fitted.record["train_loss"] == again.record["train_loss"]
    assert first_trained_layer(fitted.model) == 0
    save_checkpoint(tmp_path / "model", max_position_embeddings=128)
    fitted.model.save_pretrained(tmp_path / "fitted")
    read = load_fitted(tmp_path / "model", tmp_path / "fitted", torch.device("cpu"), torch.float32)
    with torch.no_grad():
        assert torch.equal(read(tokens).logits, fitted.model(tokens).logits)
        assert_tokens_see_neither_later_ones_nor_other_rows(fitted.model)
        with fitted.model.disable_adapter():
            assert torch.equal(fitted.model(tokens).logits, base(tokens).logits)


def test_a_preset_stays_what_it_is() -> None:
    """Fields are added to its own, of which the type is not to be replaced."""
    Params = load_method("oft").Params
    given = Params(lr=0.1, config={"oft_block_size": 8})
    assert given.model_dump()["config"] == {"peft_type": "OFT", "oft_block_size": 8, "r": 0}
    with pytest.raises(ValueError, match="this method is of peft_type OFT; the method peft takes any"):
        Params(lr=0.1, config={"peft_type": "LOHA"})


def test_a_type_of_peft_is_configured_where_it_is_named() -> None:
    opened = session()
    config = {"peft_type": "LOHA", "r": 2, "alpha": 4}
    method = load_method("peft")
    assert method.fit
    params = method.Params(lr=0.02, epochs=1, config=config, target_modules=("o_proj",))
    fitted = method.fit(fit_context(opened), params)
    assert {key.split(".")[-3] for key in fitted.model.state_dict() if "hada_" in key} == {"o_proj"}
    assert (fitted.model.peft_config["default"].r, fitted.model.peft_config["default"].alpha) == (2, 4)


def test_red_leaves_one_on_a_bfloat16_base() -> None:
    # The published checkpoint's scaling never left 1: half an ulp of bfloat16 below 1 is 2e-3.
    opened = session()
    opened.model.to(torch.bfloat16)
    fitted = fit("red", opened, lr=1e-3, epochs=1)
    scales = [p for n, p in fitted.model.named_parameters() if "lofit_scale" in n]
    assert len(scales) == 3
    assert all(p.dtype == torch.float32 for p in scales)
    assert all((p != 0).float().mean() > 0.9 for p in scales)


@pytest.mark.parametrize(("name", "layers"), [("red", (0, 1, 2)), ("red_half", (1, 2))])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_red_scales_and_shifts_every_head_of_its_layers(name: str, layers: tuple[int, ...], family: str) -> None:
    fitted = fit(name, session(family), epochs=1)
    draw = torch.Generator().manual_seed(1)
    given = {
        what: {(layer, head): torch.randn(d, generator=draw) for layer in layers for head in range(H)}
        for what in ("scale", "offset")
    }
    for parameter, value in fitted.model.named_parameters():
        if "lofit_" in parameter:
            kind = "scale" if "lofit_scale" in parameter else "offset"
            layer = int(re.search(r"\.(\d+)\.", parameter)[1])  # type: ignore[index]
            value.data = torch.stack([given[kind][layer, head] for head in range(H)])
    ids = torch.arange(3, 11)[None]
    plain = tiny_model(family, vocab_size=259)
    with torch.no_grad(), edited(plain, family, given["scale"], given["offset"]):
        expected = plain(ids).logits
    with torch.no_grad():
        assert_close(fitted.model(ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_full_fine_tuning_is_checked_for_effect_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    with pytest.raises(EditError, match="no effect"):
        fit("full", session())


@pytest.mark.parametrize(("name", "kinds"), [("lofit", {"offset"}), ("lofit_scaled", {"offset", "scale"})])
def test_lofit_trains_on_its_heads_alone(name: str, kinds: set[str], tmp_path: Path) -> None:
    scores = np.arange(12.0).reshape(L, H)  # the best three are heads 3, 2 and 1 of the last layer
    method, opened = load_method(name), session()
    assert method.fit is not None
    bench = fit_context(opened, tmp_path, k=(3,), scores=scores)
    fitted = method.fit(bench, method.Params(lr=0.02, epochs=3, batch_size=4))
    losses = fitted.record["train_loss"]  # of two batches an epoch
    assert sum(losses[-2:]) < sum(losses[:2])
    assert fitted.record["trained_params"] == parameter_counts(fitted.model)["stored"] == 3 * d * len(kinds)
    for kind in sorted(kinds):
        norms = head_norms(fitted.model, which=kind)
        assert set(zip(*np.nonzero(norms), strict=True)) == {(2, 1), (2, 2), (2, 3)}


def test_the_two_recipes_of_lofit_are_the_same() -> None:
    """The ablation changes the scaling factors alone."""
    folder = Path(methods.__file__).parent
    both = [yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("lofit", "lofit_scaled")]
    assert both[0] == both[1]
