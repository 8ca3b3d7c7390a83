"""Offsets as vectors for other programs: added as these add them, they compute what the adapter computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from lm_eval.models.hf_steered import steer
from peft import get_peft_model

from lofit.errors import EditError
from lofit.interventions import LofitConfig, find_site
from lofit.interventions.tuner.steering import CONTROL_VECTOR, STEERED, write_control_vector, write_steered
from tests.tiny import FAMILIES, tiny_model, tiny_tokens

TOKENS = tiny_tokens()
HEADS = [(0, 1), (2, 0), (2, 3)]
EDITS: dict[str, dict[str, Any]] = {"head": {"heads": HEADS}, "ffn": {"layers": [0, 2]}, "block": {"layers": [1, 2]}}


def edited(family: str, site: str, **changes: Any) -> Any:
    config = {"site": site, "scale": False, "offset": True, "init_std": 0.3, **EDITS[site], **changes}
    return get_peft_model(tiny_model(family), LofitConfig(**config)).eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(TOKENS).logits
    return found


@pytest.mark.parametrize("site", EDITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_of_lm_evals_steered_model(family: str, site: str, tmp_path: Path) -> None:
    model = edited(family, site)
    write_steered(model, tmp_path)
    vectors = torch.load(tmp_path / STEERED, weights_only=True)
    base = tiny_model(family)
    as_is = {"action": "add", "steering_coefficient": 1.0, "bias": None, "head_index": None}
    assert all({**entry, **as_is} == entry for entry in vectors.values())
    hooks = {path: lambda acts, v=entry["steering_vector"]: acts + v for path, entry in vectors.items()}
    assert len(hooks) == 2
    with steer(base, hooks):
        torch.testing.assert_close(logits(base), logits(model), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(base), logits(model), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("family", ["llama", "gpt2", "granite", "gemma2", "olmo2"])
def test_a_control_vector_is_added_to_the_output_of_layers(family: str, tmp_path: Path) -> None:
    """As in llama.cpp: `direction.N` after layer N, counted from 0."""
    model, base = edited(family, "block"), tiny_model(family)
    write_control_vector(model, tmp_path)
    reader = GGUFReader(tmp_path / CONTROL_VECTOR)
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert [tensor.name for tensor in reader.tensors] == ["direction.1", "direction.2"]
    layers: Any = base.get_submodule(find_site(base).layers)
    for tensor in reader.tensors:
        added = torch.tensor(tensor.data)

        def hook(module: Any, inputs: Any, output: Any, added: torch.Tensor = added) -> Any:
            return output + added if isinstance(output, torch.Tensor) else (output[0] + added, *output[1:])

        layers[int(tensor.name.removeprefix("direction."))].register_forward_hook(hook)
    torch.testing.assert_close(logits(base), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("write", "site", "changes", "message"),
    [
        (write_steered, "head", {"scale": True}, "the edit scales"),
        (write_steered, "head", {"positions": "answer"}, "at some positions only"),
        (write_control_vector, "head", {}, "made elsewhere"),
        (write_control_vector, "block", {"layers": [0, 1]}, "output of layer 0"),
    ],
)
def test_what_no_vector_can_do_is_refused(
    write: Any, site: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(EditError, match=message):
        write(edited("llama", site, **changes), tmp_path)
    assert not any(tmp_path.iterdir())
