import pytest
from peft import BeftConfig, IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from lofit.errors import EditError
from lofit.interventions import LofitConfig, head_norms, parameter_counts
from tests.tiny import tiny_model

HEADS = [(0, 1), (2, 0), (2, 3)]


@pytest.mark.parametrize(
    ("family", "config", "stored", "inference"),
    [
        # Heads in 2 of 3 layers: a bias of the hidden size, 32, in each of them, unless the family has it already.
        ("llama", LofitConfig(heads=HEADS, scale=False, offset=True, init_std=1.0), 3 * 8, 2 * 32),
        ("gpt2", LofitConfig(heads=HEADS, scale=False, offset=True, init_std=1.0), 3 * 8, 0),
        ("llama", LofitConfig(scale=True), 12 * 8, 0),
        ("llama", LofitConfig(site="ffn", offset=True, init_std=1.0), 2 * 3 * 32, 3 * 32),
        ("olmo2", LofitConfig(site="block", layers=[1], scale=False, offset=True), 32, 32),
        ("llama", LoraConfig(r=2, target_modules=["o_proj"]), 3 * 2 * (32 + 32), 0),
        ("llama", IA3Config(target_modules=["v_proj"], feedforward_modules=[]), 3 * 16, 0),
        ("llama", BeftConfig(target_modules=["v_proj"]), 3 * 16, 3 * 16),
    ],
)
def test_counts_follow_the_formulas(family, config, stored, inference, tmp_path):
    foldable = not isinstance(config, BeftConfig)
    model = get_peft_model(tiny_model(family), config)
    assert parameter_counts(model, foldable) == {"trained": stored, "stored": stored, "inference": inference}
    model.save_pretrained(tmp_path)
    assert sum(value.numel() for value in load_file(tmp_path / "adapter_model.safetensors").values()) == stored
    loaded = PeftModel.from_pretrained(tiny_model(family), tmp_path)
    assert parameter_counts(loaded, foldable) == {"trained": 0, "stored": stored, "inference": inference}
    if inference < stored or (family == "llama" and foldable):
        base = sum(parameter.numel() for parameter in tiny_model(family).parameters())
        merged = model.merge_and_unload()
        # Counted before switches of the configuration bring further biases along, which are zero.
        biases = {n: p for n, p in merged.named_parameters() if p.abs().any()}
        assert sum(p.numel() for p in biases.values()) - base == inference


def test_counts_of_a_model_that_was_trained_itself():
    plain = tiny_model("llama")
    size = sum(parameter.numel() for parameter in plain.parameters())
    assert parameter_counts(plain) == {"trained": size, "stored": size, "inference": 0}


def test_norms_of_vectors_that_are_not_learned():
    model = get_peft_model(tiny_model("llama"), LofitConfig(heads=HEADS, scale=False, offset=True))
    with pytest.raises(EditError, match="has no scale vectors of heads"):
        head_norms(model)
    assert not head_norms(model, which="offset").any()


def test_norms_of_two_active_adapters_at_once():
    model = get_peft_model(tiny_model("llama"), LofitConfig(heads=HEADS), "one")
    model.add_adapter("two", LofitConfig(heads=HEADS))
    model.base_model.set_adapter(["one", "two"])
    with pytest.raises(EditError, match="one active adapter is needed, found 2"):
        head_norms(model)
