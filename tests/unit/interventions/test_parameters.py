import pytest
from peft import LoraConfig, PeftModel, get_peft_model

from lofit.errors import EditError
from lofit.interventions import LofitConfig, head_norms, parameter_counts
from tests.tiny import tiny_model

HEADS = [(0, 1), (2, 0), (2, 3)]


def test_counts_of_an_adapter_in_training_loaded_and_merged(tmp_path):
    model = get_peft_model(tiny_model("llama"), LofitConfig(heads=HEADS, scale=False, offset=True, init_std=0.1))
    assert parameter_counts(model) == {"trained": 24, "stored": 24, "inference": 24}
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model("llama"), tmp_path)
    assert parameter_counts(loaded) == {"trained": 0, "stored": 24, "inference": 24}
    loaded.merge_adapter()
    assert parameter_counts(loaded) == {"trained": 0, "stored": 24, "inference": 0}


def test_counts_of_lora_and_of_a_plain_model():
    model = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules=["o_proj"]))
    assert parameter_counts(model) == {"trained": 384, "stored": 384, "inference": 384}
    plain = tiny_model("llama").requires_grad_(False)
    assert parameter_counts(plain) == {"trained": 0, "stored": 0, "inference": 0}


def test_norms_of_vectors_that_are_not_learned():
    model = get_peft_model(tiny_model("llama"), LofitConfig(heads=HEADS, scale=False, offset=True))
    with pytest.raises(EditError, match="has no scale vectors"):
        head_norms(model)
    assert not head_norms(model, which="offset").any()


def test_norms_of_two_active_adapters_at_once():
    model = get_peft_model(tiny_model("llama"), LofitConfig(heads=HEADS), "one")
    model.add_adapter("two", LofitConfig(heads=HEADS))
    model.base_model.set_adapter(["one", "two"])
    with pytest.raises(EditError, match="exactly one active adapter"):
        head_norms(model)
