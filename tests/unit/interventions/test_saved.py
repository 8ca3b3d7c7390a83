"""Adapters and merged models on disk, read back in new processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from lofit.errors import EditError, LofitError
from lofit.interventions import LofitConfig, export_merged
from tests.tiny import FAMILIES, tiny_model, tiny_tokens

REPOSITORY = Path(__file__).parents[3]
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


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr


def load_plain(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


def test_an_adapter_loads_in_a_new_process(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    model = adapted(base=base)
    model.save_pretrained(tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert sorted((name.split("layers.")[1], tuple(t.shape), t.dtype) for name, t in stored.items()) == [
        ("0.self_attn.o_proj.lofit_offset", (1, 8), torch.float32),
        ("0.self_attn.o_proj.lofit_scale", (1, 8), torch.float32),
        ("2.self_attn.o_proj.lofit_offset", (2, 8), torch.float32),
        ("2.self_attn.o_proj.lofit_scale", (2, 8), torch.float32),
    ]
    save_file({"tokens": TOKENS}, tmp_path / "in.safetensors")
    # The first import goes through the hook at its hardest: PEFT is imported half-way through one of our own modules.
    run(f"""
import lofit.interventions.tuner.layer
import torch
from pathlib import Path
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
here = Path({str(tmp_path)!r})
tokens = load_file(here / "in.safetensors")["tokens"]
out = {{}}
for name, options in {{"peft": {{}}, "meta": {{"low_cpu_mem_usage": True}}}}.items():
    model = AutoModelForCausalLM.from_pretrained(here / "base")
    out[name] = PeftModel.from_pretrained(model, here / "adapter", **options)(tokens).logits
out["auto"] = AutoModelForCausalLM.from_pretrained(here / "adapter")(tokens).logits
base = AutoModelForCausalLM.from_pretrained(here / "base", dtype=torch.bfloat16)
half = PeftModel.from_pretrained(base, here / "adapter")
assert {{p.dtype for n, p in half.named_parameters() if "lofit_" in n}} == {{torch.float32}}
save_file({{name: tensor.detach().contiguous() for name, tensor in out.items()}}, here / "out.safetensors")
""")
    expected = logits(model)
    for name, result in load_file(tmp_path / "out.safetensors").items():
        assert torch.equal(result, expected), name


def test_several_adapters_are_saved_and_loaded_by_name(tmp_path):
    model = adapted(init_seed=1)
    model.add_adapter("two", LofitConfig(heads=[(1, 1)], offset=True, init_std=0.5, init_seed=2))
    model.save_pretrained(tmp_path)
    first = logits(model)
    model.set_adapter("two")
    loaded = PeftModel.from_pretrained(tiny_model("llama"), tmp_path)
    loaded.load_adapter(tmp_path / "two", "two")
    assert torch.equal(logits(loaded), first)
    loaded.set_adapter("two")
    assert torch.equal(logits(loaded), logits(model))


def test_merged_checkpoints_need_neither_lofit_nor_peft(tmp_path):
    expected = {"tokens": TOKENS}
    for family in FAMILIES:
        model = adapted(family)
        expected[family] = logits(model)
        export_merged(model, tmp_path / family)
        assert torch.equal(logits(model), expected[family]), "the adapter model is the same afterwards"
    save_file(expected, tmp_path / "expected.safetensors")
    run(f"""
import sys
for name in ("lofit", "peft"):
    sys.modules[name] = None
from pathlib import Path
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
here = Path({str(tmp_path)!r})
expected = load_file(here / "expected.safetensors")
tokens = expected.pop("tokens")
for family, wanted in expected.items():
    model, info = AutoModelForCausalLM.from_pretrained(here / family, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), (family, info)
    error = (model(tokens).logits - wanted).abs().max() / wanted.abs().max()
    assert error <= 1e-4, (family, error)
""")


@pytest.mark.parametrize("family", ["llama", "gemma", "qwen3", "gpt2", "gpt_neox", "opt", "phi"])
def test_saving_after_merge_and_unload_loses_nothing(family, tmp_path):
    model = adapted(family)
    edit = logits(model)
    plain = model.merge_and_unload()
    in_memory = logits(plain)
    plain.save_pretrained(tmp_path)
    loaded = load_plain(tmp_path)
    assert type(loaded) is type(plain)
    assert torch.equal(logits(loaded), in_memory)
    assert_same_logits(in_memory, edit)


@pytest.mark.parametrize("family", ["qwen2", "mistral"])
def test_families_without_a_place_for_the_bias_refuse_to_be_saved(family, tmp_path):
    plain = adapted(family).merge_and_unload()
    with pytest.raises(EditError, match="export_merged"):
        plain.save_pretrained(tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    scaled = adapted(family, offset=False).merge_and_unload()
    scaled.save_pretrained(tmp_path / "scaled")
    assert torch.equal(logits(load_plain(tmp_path / "scaled")), logits(scaled))


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("mistral", {"sliding_window": 4}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
        ("stablelm", {"num_key_value_heads": 4}),
    ],
)
def test_families_that_cannot_hold_the_bias_at_all(family, options, tmp_path):
    model = adapted(base=tiny_model(family, **options))
    edit = logits(model)
    with pytest.raises(EditError, match="keep the adapter"):
        export_merged(model, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(logits(model), edit)
    with pytest.raises(EditError, match="keep the adapter"):
        model.merge_and_unload().save_pretrained(tmp_path / "merged")
    scaled = adapted(base=tiny_model(family, **options), offset=False)
    export_merged(scaled, tmp_path / "scaled")
    assert_same_logits(logits(load_plain(tmp_path / "scaled")), logits(scaled))


def test_export_as_llama_keeps_position_scaling_and_tied_embeddings(tmp_path):
    rope = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 4}
    model = adapted(base=tiny_model("qwen2", rope_parameters=rope, tie_word_embeddings=True))
    export_merged(model, tmp_path)
    loaded = load_plain(tmp_path)
    assert loaded.config.model_type == "llama"
    assert_same_logits(logits(loaded), logits(model))
    plain_rope = adapted(base=tiny_model("qwen2", tie_word_embeddings=True))
    assert (logits(plain_rope) - logits(model)).abs().max() > 1e-2


def test_export_writes_tokenizer_and_generation_settings_and_keeps_what_is_the_users(tmp_path):
    from tokenizers import Tokenizer, models

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    target = tmp_path / "merged"
    target.mkdir()
    (target / "notes").write_text("mine")
    model = adapted("qwen2", base=tiny_model("qwen2").to(torch.bfloat16))
    model.generation_config.max_new_tokens = 17
    with pytest.raises(LofitError, match="not empty, and no earlier export"):
        export_merged(model, target, tokenizer)
    assert (target / "notes").read_text() == "mine"
    (target / "notes").unlink()
    for _ in range(2):
        export_merged(model, target, tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    names = {path.name for path in target.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert json.loads((target / "generation_config.json").read_text())["max_new_tokens"] == 17
    config = json.loads((target / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and config["architectures"] == ["LlamaForCausalLM"]
    assert {tensor.dtype for tensor in load_file(target / "model.safetensors").values()} == {torch.bfloat16}


def test_a_failed_export_keeps_the_old_folder_and_the_adapter(tmp_path):
    class Broken:
        def save_pretrained(self, folder):
            raise OSError("disk full")

    model = adapted()
    edit = logits(model)
    export_merged(model, tmp_path / "merged")
    old = (tmp_path / "merged" / "model.safetensors").read_bytes()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.neg_()
    with pytest.raises(OSError, match="disk full"):
        export_merged(model, tmp_path / "merged", Broken())
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == old
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.neg_()
    assert torch.equal(logits(model), edit)


def test_an_adapter_that_is_already_merged_is_exported_and_stays_merged(tmp_path):
    model = adapted()
    edit = logits(model)
    model.merge_adapter()
    export_merged(model, tmp_path / "merged")
    assert model.base_model.model.model.layers[0].self_attn.o_proj.merged
    assert_same_logits(logits(load_plain(tmp_path / "merged")), edit)


def test_export_of_a_lora_adapter(tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(tiny_model("qwen2"), config)
    edit = logits(model)
    export_merged(model, tmp_path / "merged")
    loaded = load_plain(tmp_path / "merged")
    assert loaded.config.model_type == "qwen2"
    assert_same_logits(logits(loaded), edit)
