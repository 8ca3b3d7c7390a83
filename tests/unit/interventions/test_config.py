import json

import pytest
from peft import PeftConfig, get_peft_model

from lofit.errors import EditError
from lofit.interventions import LofitConfig
from tests.tiny import tiny_model


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([], "heads is empty"),
        ([(0, 1), (0, 1)], r"names \(0, 1\) twice"),
        ([(0, -1)], "from 0"),
        ([(0, 1, 2)], r"\[layer, head\] pairs"),
        ([(0, 1.5)], r"\[layer, head\] pairs"),
        ([3], r"\[layer, head\] pairs"),
    ],
)
def test_malformed_heads(heads, message):
    with pytest.raises(EditError, match=message):
        LofitConfig(heads=heads)


@pytest.mark.parametrize("pair", [(3, 0), (0, 4)])
def test_heads_the_model_does_not_have(pair):
    with pytest.raises(EditError, match=rf"names \({pair[0]}, {pair[1]}\), but the model has layers 0 to 2 .* 0 to 3"):
        get_peft_model(tiny_model("llama"), LofitConfig(heads=[(0, 0), pair]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": False}, "edits nothing"),
        ({"init_std": -1.0}, "init_std"),
        ({"init_std": float("nan")}, "init_std"),
        ({"init_seed": -1}, "init_seed"),
    ],
)
def test_meaningless_fields(fields, message):
    with pytest.raises(EditError, match=message):
        LofitConfig(**fields)


def test_round_trip_through_the_saved_file(tmp_path):
    config = LofitConfig(heads=[(2, 1), (0, 3)], scale=False, offset=True, init_std=0.5, init_seed=9)
    get_peft_model(tiny_model("llama"), config)
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["heads"] == [[2, 1], [0, 3]]
    assert "target_modules" not in saved
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, LofitConfig)
    assert loaded.to_dict() == config.to_dict()
